package testbroker

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Device is one simulated device.
type Device struct {
	Topic string
	QoS   byte
	// Every is the time between two messages.
	Every time.Duration
	// Payload makes a message. seq is unique among all messages of one [Devices] and must be found in the payload.
	Payload func(now time.Time, seq uint64) []byte
}

// Devices publishes as a small home does, for the quickstart and for tests that count.
type Devices struct {
	list      []Device
	seq       atomic.Uint64
	published [3]atomic.Uint64 // by QoS
}

// NewDevices returns devices to be run; without an argument they are those of [Home].
func NewDevices(list ...Device) *Devices {
	if len(list) == 0 {
		list = Home()
	}
	return &Devices{list: list}
}

// Home returns four devices that publish at QoS 1: three JSON dialects (Zigbee2MQTT, Tasmota, Shelly) and a plain line.
func Home() []Device {
	near := func(middle, spread float64) float64 { return middle + (rand.Float64()-0.5)*spread }
	return []Device{
		{Topic: "zigbee2mqtt/kitchen_sensor", QoS: 1, Every: 500 * time.Millisecond, Payload: func(_ time.Time, seq uint64) []byte {
			return fmt.Appendf(nil, `{"battery":97,"humidity":%.1f,"linkquality":%d,"temperature":%.2f,"voltage":3005,"seq":%d}`,
				near(45, 4), 100+rand.IntN(60), near(21.5, 1), seq)
		}},
		{Topic: "tele/plug_1/SENSOR", QoS: 1, Every: time.Second, Payload: func(now time.Time, seq uint64) []byte {
			power := near(62, 20)
			return fmt.Appendf(nil, `{"Time":"%s","ENERGY":{"Total":12.345,"Today":0.512,"Power":%.0f,"Voltage":230,"Current":%.3f},"seq":%d}`,
				now.Format("2006-01-02T15:04:05"), power, power/230, seq)
		}},
		{Topic: "shellyplus1-abc/events/rpc", QoS: 1, Every: 2 * time.Second, Payload: func(now time.Time, seq uint64) []byte {
			return fmt.Appendf(nil, `{"src":"shellyplus1-abc","dst":"shellyplus1-abc/events","method":"NotifyStatus",`+
				`"params":{"ts":%d.00,"switch:0":{"id":0,"output":%t,"source":"switch"}},"seq":%d}`,
				now.Unix(), seq%2 == 0, seq)
		}},
		{Topic: "lab/door", QoS: 1, Every: 3 * time.Second, Payload: func(now time.Time, seq uint64) []byte {
			what := [...]string{"INFO door opened by badge 4711", "INFO door closed", "WARN door held open for 31 s"}
			return fmt.Appendf(nil, "%s %s seq=%d", now.UTC().Format(time.RFC3339), what[seq%3], seq)
		}},
	}
}

// Published returns how many messages of this QoS the broker has acknowledged so far.
func (d *Devices) Published(qos byte) uint64 { return d.published[qos].Load() }

// Run publishes until ctx ends, waits for the last acknowledgements, and returns nil; then Published is exact. It stays
// through restarts of the broker. A broker that is away for more than 30 s, or when Run begins, is an error.
func (d *Devices) Run(ctx context.Context, brokerURL string) error {
	for _, dev := range d.list {
		if dev.QoS > 2 || dev.Every <= 0 || dev.Payload == nil {
			return fmt.Errorf("device %s: QoS must be 0, 1 or 2, and Every and Payload must be set", dev.Topic)
		}
	}
	ctx, stop := context.WithCancel(ctx) // one failed publisher ends the others
	defer stop()
	// The acknowledgements of the last messages come after the end of ctx.
	patient, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	cancelGrace := context.AfterFunc(ctx, func() {
		grace := time.NewTimer(10 * time.Second)
		defer grace.Stop()
		select {
		case <-grace.C:
			giveUp()
		case <-patient.Done():
		}
	})
	defer cancelGrace()

	var wg sync.WaitGroup
	var errs [3]error
	for qos := range byte(3) {
		var group []Device
		for _, dev := range d.list {
			if dev.QoS == qos {
				group = append(group, dev)
			}
		}
		if len(group) == 0 {
			continue
		}
		wg.Go(func() {
			opts := Opts{ClientID: unique("devices"), QoS: qos, Resume: true, Acked: func(Message) { d.published[qos].Add(1) }}
			if _, err := Publish(patient, brokerURL, opts, d.messages(ctx, group)); err != nil {
				errs[qos] = err
				stop()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

// messages yields each device's messages when they are due, until ctx ends.
func (d *Devices) messages(ctx context.Context, group []Device) iter.Seq[Message] {
	return func(yield func(Message) bool) {
		due := make([]time.Time, len(group))
		start := time.Now()
		for i, dev := range group {
			due[i] = start.Add(dev.Every / 10)
		}
		timer := time.NewTimer(0)
		defer timer.Stop()
		for {
			next := 0
			for i := range due {
				if due[i].Before(due[next]) {
					next = i
				}
			}
			timer.Reset(time.Until(due[next]))
			select {
			case now := <-timer.C:
				dev := group[next]
				due[next] = due[next].Add(dev.Every)
				m := Message{Topic: dev.Topic, QoS: dev.QoS, Payload: dev.Payload(now, d.seq.Add(1))}
				if !yield(m) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}
