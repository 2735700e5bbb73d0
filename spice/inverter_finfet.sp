* CMOS inverter of FinFETs. `nfet` and `pfet` (drain gate source bulk, nfin=) come from the model
* library that the netlist selects with .lib.
.subckt inverter g out vdd fins=10
Xp out g vdd vdd pfet nfin='fins'
Xn out g 0 0 nfet nfin='fins'
.ends inverter
