package dlq

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	decoder() // its channels must not be made in a test with a clock of its own
	if dir := os.Getenv("DLQ_TEST_CHILD"); dir != "" {
		child(dir)
		return
	}
	if err := flag.Set("rapid.checks", "1000"); err != nil { // 1 ms each; what the command line says prevails
		panic(err)
	}
	goleak.VerifyTestMain(m)
}
