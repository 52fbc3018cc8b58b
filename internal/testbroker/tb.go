package testbroker

// TB is the part of testing.TB that this package needs.
type TB interface {
	Helper()
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	TempDir() string
}

// StartMochi starts a Mochi that ends with the test.
func StartMochi(tb TB, opts MochiOptions) *Mochi {
	tb.Helper()
	m, err := NewMochi(opts)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	run(tb, m)
	return m
}

// StartMosquitto starts a Mosquitto that ends with the test, in the test's own directory if opts has none. The test is
// skipped where Mosquitto is not installed.
func StartMosquitto(tb TB, opts MosquittoOptions) *Mosquitto {
	tb.Helper()
	if _, ok := LookMosquitto(); !ok && opts.Path == "" {
		tb.Skipf("mosquitto is not installed")
	}
	if opts.Dir == "" {
		opts.Dir = tb.TempDir()
	}
	m, err := NewMosquitto(opts)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	run(tb, m)
	return m
}

func run(tb TB, b Broker) {
	tb.Helper()
	if err := b.Start(); err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(func() {
		if err := b.Stop(); err != nil {
			tb.Errorf("%v", err)
		}
	})
}
