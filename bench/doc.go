// Package bench holds the side-by-side benchmarks: our plugins and stock Telegraf's in the same binary, on the same
// work, in turn, so that what counts is the ratio and not the machine. Run them with make bench.
package bench
