* Operational amplifier of eight transistors in a 0.18 um process, between two supplies: a
* differential pair of n-transistors with a mirror, and a common source as the second stage
* (Allen and Holberg, "CMOS Analog Circuit Design", ch. 6). No compensation: it is for operating points.
*
* Transistors are of SPICE's level 1 with the values that Sedra and Smith, "Microelectronic Circuits"
* (5th ed., table 6.1), give for 0.18 um: mobility times oxide capacitance 387 and 86 uA/V^2, thresholds
* 0.48 and -0.45 V, Early voltages of 5 and 6 V per um of length. All are 1 um long; bulks are at
* sources. Widths are of this project, for 20 uA in the pair and 40 uA in the second stage.
*
*   plus, minus  inputs: gates of the pair
*   out          output
*   vdd, vss     supplies
*   dvt1 … dvt8  V, shifts of the thresholds of m1 to m8, for their spread
*   area1 … 8    um^2, gate areas: a threshold's standard deviation is avt/sqrt(2*area)
.subckt opamp_two_stage plus minus out vdd vss
+ dvt1=0 dvt2=0 dvt3=0 dvt4=0 dvt5=0 dvt6=0 dvt7=0 dvt8=0
+ area1=20 area2=20 area3=10 area4=10 area5=5 area6=40 area7=10 area8=5
.model nch nmos level=1 vto=0.48 kp=387u lambda=0.2 gamma=0 phi=0.7 tnom=25
.model pch pmos level=1 vto=-0.45 kp=86u lambda=0.1667 gamma=0 phi=0.7 tnom=25
Vt1 minus g1 'dvt1'
Vt2 plus g2 'dvt2'
M1 d1 g1 tail tail nch w=20u l=1u
M2 d2 g2 tail tail nch w=20u l=1u
Vt3 d1 g3 'dvt3'
Vt4 d1 g4 'dvt4'
M3 d1 g3 vdd vdd pch w=10u l=1u
M4 d2 g4 vdd vdd pch w=10u l=1u
Vt5 bias g5 'dvt5'
M5 tail g5 vss vss nch w=5u l=1u
Vt6 d2 g6 'dvt6'
M6 out g6 vdd vdd pch w=40u l=1u
Vt7 bias g7 'dvt7'
M7 out g7 vss vss nch w=10u l=1u
Rbias vdd bias 48.8k
Vt8 bias g8 'dvt8'
M8 bias g8 vss vss nch w=5u l=1u
.ends opamp_two_stage
