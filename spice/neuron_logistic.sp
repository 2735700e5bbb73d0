* Behavioural neuron: 0.8/(1 + exp(slope*v)) for vdd = 0.8 V: falls from vdd to 0, as the inverter does.
* v is the neuron input plus a level shift. The tanh form is the same function and cannot overflow.
* Ideal but for its output resistance: no current from z, none from vdd.
*   z      neuron input, where the amplifiers of all partitions meet
*   out    output, drives the next layer
*   vdd    supply
*   shift  level shift, V
*   slope  1/V
*   rout   output resistance, ohm
*   cin    from z to ground, F
*   cout   from out to ground, F
.subckt neuron_logistic z out vdd shift=0 slope=11 rout=1000 cin=0 cout=0
Vshift g z 'shift'
Eshape f 0 vol='0.5*v(vdd)*(1-tanh(0.5*slope*v(g)))'
Rout f out 'rout'
Cin z 0 'cin'
Cout out 0 'cout'
.ends neuron_logistic
