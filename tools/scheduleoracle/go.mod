module muster.dev/tools/scheduleoracle

go 1.26.0
