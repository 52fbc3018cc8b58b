package mqtt_hardware

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The one goroutine of the process that guards the key of Telegraf's secrets; it has no end.
		goleak.IgnoreAnyFunction("github.com/awnumar/memguard/core.NewCoffer.func1"))
}
