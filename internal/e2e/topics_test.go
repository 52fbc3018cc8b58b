package e2e

import (
	"bytes"
	"encoding/base64"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/edgetide/telegraf-victorialogs/internal/agentproc"
	"github.com/edgetide/telegraf-victorialogs/internal/devicecases"
	"github.com/edgetide/telegraf-victorialogs/internal/testbroker"
	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

// Devices of all kinds publish to very many topics: nothing is lost or doubled, and the memory grows neither with the messages
// nor with the topics. Not parallel, since it measures.
func TestManyTopics(t *testing.T) { //nolint:paralleltest // see above
	const rate, window = 10_000, 1000 // with a window of 20, truly held, 2,700 a second come through
	topics, rounds := soaking(t, 20_000, 100_000), soaking(t, 3, 6)
	n := topics * rounds
	for name, start := range map[string]func(testing.TB) testbroker.Broker{
		"mochi": func(tb testing.TB) testbroker.Broker {
			return testbroker.StartMochi(tb, testbroker.MochiOptions{MaxInflight: window})
		},
		"mosquitto": func(tb testing.TB) testbroker.Broker {
			return testbroker.StartMosquitto(tb, testbroker.MosquittoOptions{MaxInflight: window})
		},
	} {
		t.Run(name, func(t *testing.T) { //nolint:paralleltest // see above
			broker := start(t)
			logs, err := vlreceiver.Start(vlreceiver.Config{Retention: 100 * 365 * 24 * time.Hour}) // the cases' own times are old
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, logs.Close()) })
			r := newRig(t, broker.URL(), logs.URL(), "", `  namedrop = ["internal_*"]`)
			config, err := os.ReadFile(r.config)
			require.NoError(t, err)
			config = bytes.ReplaceAll(config, []byte(`["e2e/#"]`), []byte(`["e2e/#", "spBv1.0/#"]`))
			require.NoError(t, os.WriteFile(r.config, config, 0o600))
			r.start()

			d := newDevices(t, topics)
			began := time.Now()
			published := publishing(t, broker.URL(), testbroker.Opts{QoS: 1, Rate: rate, Inflight: window}, d.messages(n))
			var memory []int64 // MiB
			var early, late int64
			err = r.agent.WaitFor(within(t, 5*patience), func(a *agentproc.Agent) bool {
				late = rss(t, r)
				memory = append(memory, late>>20)
				if early == 0 && a.Self(acked) >= int64(n/4) {
					early = late
				}
				return a.Self(acked) >= int64(n)
			})
			published()
			r.stop()
			doubled, last := d.requireAll(t, logs, n)
			require.NoError(t, err, "acknowledged")
			t.Logf("%d messages of %d devices at %.0f a second, %d doubled; %s of the agent's CPU time for each", n, topics,
				float64(n)/last.Sub(began).Seconds(), doubled, r.agent.CPU()/time.Duration(n))
			t.Logf("resident memory: %d KiB after a quarter, %d KiB at the end; in MiB, twice a second: %v", early>>10, late>>10, memory)
			require.Zero(t, doubled)
			require.LessOrEqual(t, late-early, int64(16<<20), "bytes that the memory grew by after the first quarter")
			requireNothingLeft(t, broker.URL())
		})
	}
}

// devices publish the messages of the golden cases, each to a topic of its own and each message with a number.
type devices struct {
	cases  []devicecases.Message
	topics []string
	kinds  []int // of the messages that were published: indexes of cases
}

func newDevices(t *testing.T, n int) *devices {
	t.Helper()
	files, err := filepath.Glob("../../inputs/mqtt_hardware/testcases/*/messages.txt")
	require.NoError(t, err)
	d := &devices{}
	for _, file := range files {
		messages, err := devicecases.Read(file)
		require.NoError(t, err)
		d.cases = append(d.cases, messages...)
	}
	require.NotEmpty(t, d.cases)
	for i := range n {
		topic := d.cases[i%len(d.cases)].Topic + "-" + strconv.Itoa(i)
		if !strings.HasPrefix(topic, "spBv1.0/") {
			topic = "e2e/" + topic
		}
		d.topics = append(d.topics, topic)
	}
	return d
}

// messages yields messages 1 to n. A quarter of the devices publishes all of its messages in turn, then the next quarter.
func (d *devices) messages(n int) iter.Seq[testbroker.Message] {
	return func(yield func(testbroker.Message) bool) {
		quarter := len(d.topics) / 4
		for seq := 1; seq <= n; seq++ {
			device := (seq-1)/(n/4)*quarter + (seq-1)%quarter
			d.kinds = append(d.kinds, device%len(d.cases))
			topic := d.topics[device]
			payload := numbered(d.cases[device%len(d.cases)].Payload, strings.HasPrefix(topic, "spBv1.0/"), seq)
			if !yield(testbroker.Message{Topic: topic, Payload: payload}) {
				return
			}
		}
	}
}

// numbered is the payload with a number in it, which is still of the same kind.
func numbered(payload []byte, sparkplug bool, seq int) []byte {
	switch {
	case bytes.HasPrefix(payload, []byte("{")):
		return slices.Concat([]byte(`{"seq":`), strconv.AppendInt(nil, int64(seq), 10), []byte(","), payload[1:])
	case sparkplug: // the last seq counts, and of a torn payload the first is read
		field := protowire.AppendVarint(protowire.AppendTag(nil, 3, protowire.VarintType), uint64(seq))
		return slices.Concat(field, payload, field)
	default:
		return slices.Concat(strconv.AppendInt(nil, int64(seq), 10), []byte(" "), payload)
	}
}

// requireAll checks that each of n messages is stored, and returns how many rows there are beyond those of one of each, and
// when the last came. Some payloads are several rows, as many each time.
func (d *devices) requireAll(t *testing.T, logs *vlreceiver.Server, n int) (doubled int, last time.Time) {
	t.Helper()
	rows := make([]int, n)
	for row := range logs.All(vlreceiver.Tenant{}) {
		last = row.Stored
		if row.Fields["error"] == "" { // else it follows what could be read of a torn payload
			rows[seqOf(t, row.Fields)-1]++
		}
	}
	lost := 0
	usual := make([]int, len(d.cases))
	for i, kind := range d.kinds {
		if rows[i] == 0 {
			lost++
		} else if usual[kind] == 0 || rows[i] < usual[kind] {
			usual[kind] = rows[i]
		}
	}
	require.Zero(t, lost, "messages of %d that are lost", n)
	for i, kind := range d.kinds {
		doubled += rows[i] - usual[kind]
	}
	return doubled, last
}

var inText = regexp.MustCompile(`^(?:\{"seq":)?(\d+)`)

// seqOf finds the number that numbered put into a payload.
func seqOf(t *testing.T, fields map[string]string) int {
	t.Helper()
	text, ok := fields["seq"]
	if !ok {
		message := fields["_msg"]
		if binary, ok := fields["payload_base64"]; ok {
			decoded, err := base64.StdEncoding.DecodeString(binary)
			require.NoError(t, err)
			message = string(decoded)
		}
		match := inText.FindStringSubmatch(message)
		require.NotNil(t, match, "%v", fields)
		text = match[1]
	}
	seq, err := strconv.Atoi(text)
	require.NoError(t, err, "%v", fields)
	return seq
}
