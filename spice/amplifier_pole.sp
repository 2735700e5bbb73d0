* Differential amplifier of one crossbar row with a single pole of its closed loop.
* The line ends see what amplifier.sp puts on them; its output follows through a buffered low-pass:
*
*   ideal -- Rpole = 1k -- slow, Cpole from slow to ground, out = slow   (2*pi*Rpole*Cpole = 1/pole)
*
* Replace it by one of your own with the same ports.
*   plus, minus  ends of the I+ and I- line
*   out          output
*   gain         R4/R2 = R3/R1
*   r            R1 = R2, ohm
*   pole         Hz
.subckt amplifier_pole plus minus out gain=10 r=1000 pole=1e9
R2 plus n2 'r'
R4 n2 0 'gain*r'
R1 minus n1 'r'
R3 n1 ideal 'gain*r'
Evirtual n1 0 n2 0 1
Eplus ideal below n2 0 '1+gain'
Eminus below 0 minus 0 '-gain'
Rpole ideal slow 1k
Cpole slow 0 '1/(6.283185307179586*1000*pole)'
Ebuffer out 0 slow 0 1
.ends amplifier_pole
