package dlq

import (
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
	goleak.VerifyTestMain(m)
}
