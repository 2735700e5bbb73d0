* Behavioural neuron: v limited to the range from 0 to vdd.
* v is the neuron input plus a level shift. A circuit cannot exceed its supply: the linear part ends at vdd.
* Ideal but for its output resistance: no current from z, none from vdd.
*   z      neuron input, where the amplifiers of all partitions meet
*   out    output, drives the next layer
*   vdd    supply
*   shift  level shift, V
*   rout   output resistance, ohm
.subckt neuron_relu z out vdd shift=0 rout=1000
Vshift g z 'shift'
Eshape f 0 vol='min(max(v(g),0),v(vdd))'
Rout f out 'rout'
.ends neuron_relu
