package mqtt_hardware

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/config"
)

// One who checks beside a running agent takes neither its session nor its messages.
func TestSessionCheckDisturbsNobody(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	asked := make(map[string]int)
	url := ruledMochi(t, &rules{subscribe: func(filter string) bool {
		mu.Lock()
		defer mu.Unlock()
		asked[filter]++
		return filter != "secret/#"
	}})
	options := func(p *MQTTHardware) {
		persistent(p)
		p.AvailabilityTopic = "available"
		p.Topics = []string{"$share/group/t/#", "a/+", "secret/#"}
	}
	agent := connect(t, url, options)
	mu.Lock()
	before := asked["$share/group/t/#"]
	mu.Unlock()

	checks := prepare(t, url, options).CheckBrokers(t.Context(), hanging)
	require.Len(t, checks, 1)
	check := checks[0]
	require.NoError(t, check.Err)
	require.Equal(t, StageSubscribe, check.Stage)
	require.NotEqual(t, "plugin", check.ClientID)
	require.Len(t, check.ClientID, 23)
	require.Len(t, check.Topics, 3)
	for i, want := range []TopicCheck{
		{Topic: "$share/group/t/#", Filter: "t/#"}, {Topic: "a/+", Filter: "a/+"}, {Topic: "secret/#", Filter: "secret/#"},
	} {
		got := check.Topics[i]
		require.Equal(t, want.Topic, got.Topic)
		require.Equal(t, want.Filter, got.Filter)
		require.Equal(t, want.Topic == "secret/#", got.Refused())
	}
	mu.Lock()
	require.Equal(t, before, asked["$share/group/t/#"], "the shared subscription is the agent's alone")
	mu.Unlock()

	send(t, url, 1, "t/x", "one")
	agent.untilTexts([]string{"one"})
	require.EqualValues(t, 0, agent.stats.reconnects.Get())
}

func TestCheckBrokersStages(t *testing.T) {
	t.Parallel()
	only3(t)
	refusing := scripted(t, func(int, packets.ControlPacket) (packets.ControlPacket, bool) {
		return connack(packets.ErrRefusedNotAuthorised), true
	})
	silent := scripted(t, func(int, packets.ControlPacket) (packets.ControlPacket, bool) { return nil, true })
	hangingUp := scripted(t, func(_ int, p packets.ControlPacket) (packets.ControlPacket, bool) {
		if _, ok := p.(*packets.SubscribePacket); ok {
			return nil, false
		}
		return accepting(p)
	})
	p := prepare(t, "tcp://"+freeAddress(t), func(p *MQTTHardware) {
		p.Servers = append(p.Servers, "tcp://name.invalid:1883", refusing, silent, hangingUp)
		p.Password, p.Username = config.NewSecret([]byte("sesame")), config.NewSecret([]byte("me"))
	})
	checks := p.CheckBrokers(t.Context(), time.Second)
	stages := make([]Stage, 0, len(checks))
	for _, c := range checks {
		require.Error(t, c.Err)
		require.NotContains(t, c.Err.Error(), "sesame")
		require.Equal(t, c.Server == refusing, c.Refused)
		stages = append(stages, c.Stage)
	}
	require.Equal(t, []Stage{StageConnect, StageConnect, StageLogin, StageLogin, StageSubscribe}, stages)
	require.ErrorContains(t, checks[3].Err, "no answer in time")
	require.ErrorContains(t, checks[4].Err, `"t/#": `)
	require.ErrorContains(t, checks[4].Err, "connection") // was lost; the library may be the first to say so
}

func TestCheckListen(t *testing.T) {
	t.Parallel()
	on := func(address string) *instance {
		return prepare(t, "", func(p *MQTTHardware) { p.Listen = "tcp://" + address })
	}
	_, ok := prepare(t, "tcp://127.0.0.1:1").CheckListen(t.Context(), hanging)
	require.False(t, ok)

	agent := on("127.0.0.1:0")
	agent.start()
	c, ok := on(agent.embedded.bound).CheckListen(t.Context(), hanging)
	require.True(t, ok)
	require.Equal(t, ListenCheck{Address: agent.embedded.bound, Broker: true}, c)

	free := freeAddress(t)
	c, _ = on(free).CheckListen(t.Context(), hanging)
	require.Equal(t, ListenCheck{Address: free, Free: true}, c)

	other := serveTCP(t, nil, func(conn net.Conn) { _ = conn.Close() })
	c, _ = on(other).CheckListen(t.Context(), hanging)
	require.False(t, c.Free)
	require.False(t, c.Broker)
	require.Error(t, c.Err)
}

func TestCheckHardware(t *testing.T) {
	p := New()
	p.Hardware = []string{"memory", "uptime"}
	require.NoError(t, p.Init())
	for _, kind := range p.Hardware {
		n, err := p.CheckHardware(t.Context(), kind)
		require.NoError(t, err)
		require.Equal(t, 1, n)
	}
	_, err := p.CheckHardware(t.Context(), "fan")
	require.ErrorContains(t, err, `"fan" is not in hardware`)
	none := func(context.Context) ([]reading, error) { return nil, errNone }
	p.hardware.active = append(p.hardware.active, &sampled{name: "fan", read: none})
	_, err = p.CheckHardware(t.Context(), "fan")
	require.ErrorIs(t, err, ErrAbsent)
}
