* Behavioural neuron: v limited to the range from -vdd to vdd.
* v is the neuron input plus a level shift. A circuit between two supplies: the linear part ends at both.
* Ideal but for its output resistance: no current from z, none from vdd.
*   z      neuron input, where the amplifiers of all partitions meet
*   out    output, drives the next layer
*   vdd    supply
*   shift  level shift, V
*   rout   output resistance, ohm
*   cin    from z to ground, F
*   cout   from out to ground, F
.subckt neuron_hardtanh z out vdd shift=0 rout=1000 cin=0 cout=0
Vshift g z 'shift'
Eshape f 0 vol='min(max(v(g),-v(vdd)),v(vdd))'
Rout f out 'rout'
Cin z 0 'cin'
Cout out 0 'cout'
.ends neuron_hardtanh
