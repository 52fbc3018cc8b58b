// Package bench holds benchmarks that compare a library of ours with others, in turn and in one run, so that what counts is
// the ratio and not the machine. Program sidebyside, below it, does the same with whole agents; package firehose loads them.
// make bench-micro runs this package's, make bench the program.
package bench
