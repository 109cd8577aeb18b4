module matriarch/lab/faults

go 1.25.0
