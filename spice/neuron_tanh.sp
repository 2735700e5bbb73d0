* Behavioural neuron: vdd*tanh(slope*v/2): rises from -vdd to vdd.
* v is the neuron input plus a level shift. The logistic function, rescaled to both signs.
* Ideal but for its output resistance: no current from z, none from vdd.
*   z      neuron input, where the amplifiers of all partitions meet
*   out    output, drives the next layer
*   vdd    supply
*   shift  level shift, V
*   slope  1/V
*   rout   output resistance, ohm
.subckt neuron_tanh z out vdd shift=0 slope=11 rout=1000
Vshift g z 'shift'
Eshape f 0 vol='v(vdd)*tanh(0.5*slope*v(g))'
Rout f out 'rout'
.ends neuron_tanh
