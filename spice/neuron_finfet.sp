* Neuron: CMOS inverter with a level shift, an input resistor and feedback.
*   (z + shift) -- Rin -- g -- inverter -- out,   Rfb from out back to g
*   z      neuron input, where the amplifiers of all partitions meet
*   out    output, drives the next layer
*   vdd    supply of the inverter
*   shift  level shift, V (a voltage source of -shift from z to its other side)
*   rin    ohm, "Rlow"
*   rfb    ohm, "Rhigh"
*   fins   fins of each transistor
*   cin    from g to ground, F, besides the transistors' own charges
*   cout   from out to ground, F, likewise
* The inverter is a sub-circuit of its own, `inverter g out vdd fins=`, in another file.
.subckt neuron_finfet z out vdd shift=0.4 rin=78000 rfb=202000 fins=10 cin=0 cout=0
Vshift z s '-shift'
Rin s g 'rin'
Rfb out g 'rfb'
Xinverter g out vdd inverter fins='fins'
Cin g 0 'cin'
Cout out 0 'cout'
.ends neuron_finfet
