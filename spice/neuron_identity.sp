* Behavioural neuron: v itself.
* v is the neuron input plus a level shift. A buffer: no activation.
* Ideal but for its output resistance: no current from z, none from vdd.
*   z      neuron input, where the amplifiers of all partitions meet
*   out    output, drives the next layer
*   vdd    supply
*   shift  level shift, V
*   rout   output resistance, ohm
.subckt neuron_identity z out vdd shift=0 rout=1000
Vshift g z 'shift'
Eshape f 0 vol='v(g)'
Rout f out 'rout'
.ends neuron_identity
