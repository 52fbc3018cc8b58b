package victorialogs

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// memguard, which holds Telegraf's secrets, changes its key twice a second for as long as the process lives.
		goleak.IgnoreAnyFunction("github.com/awnumar/memguard/core.NewCoffer.func1"))
}
