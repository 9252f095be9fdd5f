package meter

// For tests: what is made of the text in /proc.
var (
	OfProcess = ofProcess
	OfMachine = ofMachine
)
