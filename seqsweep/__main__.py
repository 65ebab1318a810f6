from seqsweep.sweep.cli import main

main()
