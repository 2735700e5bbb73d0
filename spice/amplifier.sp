* Differential amplifier of one crossbar row: out = gain * (v(plus) - v(minus)) for an ideal
* operational amplifier, with the loads that its resistors put on the line ends.
*
*   plus  -- R2 = r -- n2 -- R4 = gain*r -- 0
*   minus -- R1 = r -- n1 -- R3 = gain*r -- out
*
* The operational amplifier is a nullor: v(n1) = v(n2), and its output supplies whatever current
* that takes. Not every SPICE solves a nullor, so the same equations are written explicitly:
*   v(n1)  = v(n2)                              (Evirtual; it carries no current, because
*   v(out) = (1 + gain)*v(n2) - gain*v(minus)    R1 and R3 carry the same current by this choice)
* This is an identity, not an approximation by a large gain.
*
* Replace this file by one of your own with the same ports; parameters that your sub-circuit does
* not declare are not passed.
*   plus, minus  ends of the I+ and I- line
*   out          output
*   gain         R4/R2 = R3/R1
*   r            R1 = R2, ohm
.subckt amplifier plus minus out gain=10 r=1000
R2 plus n2 'r'
R4 n2 0 'gain*r'
R1 minus n1 'r'
R3 n1 out 'gain*r'
Evirtual n1 0 n2 0 1
Eplus out below n2 0 '1+gain'
Eminus below 0 minus 0 '-gain'
.ends amplifier
