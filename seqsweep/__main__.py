from seqsweep.sweep.cli.app import main

main()
