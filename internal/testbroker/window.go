package testbroker

import (
	"fmt"
	"slices"
	"sync"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/storage"
	"github.com/mochi-mqtt/server/v2/packets"
)

// window is the mochi hook that delivers in mochi's place. It outlives the server it serves: its sessions and what
// snapshot kept are what the next server starts with.
type window struct {
	mochi.HookBase
	limit int

	topics *mochi.TopicsIndex // of the current server; set before it serves

	mu       sync.RWMutex
	sessions map[string]*session // by client id

	// What the stopped server knew; read by the next one's Serve.
	clients       []storage.Client
	subscriptions []storage.Subscription
	receiving     []storage.Message
	retained      []storage.Message
}

func newWindow(limit int) *window {
	return &window{limit: limit, sessions: make(map[string]*session)}
}

// ID names the hook in mochi's log.
func (*window) ID() string { return "window" }

// Provides tells mochi which of the hook's methods to call.
func (*window) Provides(b byte) bool {
	switch b {
	case mochi.OnSessionEstablish, mochi.OnSessionEstablished, mochi.OnDisconnect, mochi.OnClientExpired,
		mochi.OnPublish, mochi.OnPacketRead, mochi.OnPacketEncode,
		mochi.StoredClients, mochi.StoredSubscriptions, mochi.StoredInflightMessages, mochi.StoredRetainedMessages:
		return true
	}
	return false
}

// OnPublish stores an accepted message for each subscriber. mochi acknowledges it to the publisher after this.
func (w *window) OnPublish(from *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	if pk.FixedHeader.Retain {
		kept := pk.Copy(false)
		w.topics.RetainMessage(kept)
	}
	var props *packets.Properties
	if pk.ProtocolVersion == 5 {
		p := pk.Properties.Copy(false)
		props = &p
	}

	subscribers := w.topics.Subscribers(pk.TopicName)
	if len(subscribers.Shared) > 0 {
		subscribers.SelectShared()
		subscribers.MergeSharedSelected()
	}
	for id, sub := range subscribers.Subscriptions {
		s := w.session(id)
		if s == nil || (sub.NoLocal && from.ID == id) {
			continue
		}
		m := outgoing{
			topic:   pk.TopicName,
			payload: pk.Payload,
			qos:     min(pk.FixedHeader.Qos, sub.Qos),
			retain:  pk.FixedHeader.Retain && sub.RetainAsPublished,
			props:   props,
		}
		if ids := identifiers(sub); len(ids) > 0 {
			var p packets.Properties
			if props != nil {
				p = props.Copy(false)
			}
			p.SubscriptionIdentifier = ids
			m.props = &p
		}
		s.deliver(m)
	}
	return pk, packets.CodeSuccessIgnore
}

// identifiers returns the MQTT 5 subscription identifiers, of which mochi keeps a 0 for each filter that has none.
func identifiers(sub packets.Subscription) []int {
	var ids []int
	for _, id := range sub.Identifiers {
		if id > 0 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// OnSessionEstablish is called before mochi inherits the session of an earlier connection: that one is closed here,
// since mochi would first write to it, and wait for as long as its client does not read.
func (w *window) OnSessionEstablish(client *mochi.Client, pk packets.Packet) {
	if earlier := w.session(client.ID); earlier != nil {
		earlier.disconnect(packets.ErrSessionTakenOver)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	earlier := w.sessions[client.ID]
	if earlier == nil || earlier.clean || pk.Connect.Clean {
		clean := pk.Connect.Clean && client.Properties.ProtocolVersion < 5
		w.sessions[client.ID] = newSession(clean)
	}
}

// OnSessionEstablished is called after CONNACK and before the first packet is read.
func (w *window) OnSessionEstablished(client *mochi.Client, _ packets.Packet) {
	limit := w.limit
	if theirs := int(client.Properties.Props.ReceiveMaximum); theirs > 0 { // MQTT 5
		limit = min(limit, theirs)
	}
	if s := w.session(client.ID); s != nil {
		s.attach(client, limit)
	}
}

// OnDisconnect is called after the connection was closed.
func (w *window) OnDisconnect(client *mochi.Client, _ error, expire bool) {
	s := w.session(client.ID)
	if s == nil || !s.detach(client) || !expire {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sessions[client.ID] == s {
		delete(w.sessions, client.ID)
	}
}

// OnClientExpired ends the session of an MQTT 5 client that stayed away too long.
func (w *window) OnClientExpired(client *mochi.Client) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.sessions, client.ID)
}

// OnPacketRead sees the acknowledgements. mochi, which knows nothing of these messages, ignores a PUBACK and a PUBCOMP,
// and answers a PUBREC with a PUBREL.
func (w *window) OnPacketRead(client *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	switch pk.FixedHeader.Type {
	case packets.Puback, packets.Pubrec, packets.Pubcomp:
		if s := w.session(client.ID); s != nil {
			s.acknowledge(client, pk)
		}
	}
	return pk, nil
}

// OnPacketEncode takes the reason "packet identifier not found" from a PUBREL for one of our messages.
func (w *window) OnPacketEncode(client *mochi.Client, pk packets.Packet) packets.Packet {
	if pk.FixedHeader.Type != packets.Pubrel || pk.ReasonCode == 0 {
		return pk
	}
	if s := w.session(client.ID); s != nil && s.holds(pk.PacketID) {
		pk.ReasonCode = 0
		pk.Properties.ReasonString = ""
	}
	return pk
}

func (w *window) session(clientID string) *session {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.sessions[clientID]
}

// forget is what a broker without persistence does at its end.
func (w *window) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.sessions)
	w.clients, w.subscriptions, w.receiving, w.retained = nil, nil, nil, nil
}

// snapshot keeps what a closed server knew of persistent sessions and retained messages.
func (w *window) snapshot(server *mochi.Server) {
	w.clients, w.subscriptions, w.receiving, w.retained = nil, nil, nil, nil
	for id, client := range server.Clients.GetAll() {
		if client.Net.Inline || w.session(id) == nil {
			continue
		}
		p := client.Properties.Props
		w.clients = append(w.clients, storage.Client{
			ID:              id,
			Listener:        client.Net.Listener,
			ProtocolVersion: client.Properties.ProtocolVersion,
			Clean:           client.Properties.Clean,
			Username:        client.Properties.Username,
			Properties: storage.ClientProperties{
				SessionExpiryInterval:     p.SessionExpiryInterval,
				SessionExpiryIntervalFlag: p.SessionExpiryIntervalFlag,
				ReceiveMaximum:            p.ReceiveMaximum,
			},
		})
		for filter, sub := range client.State.Subscriptions.GetAll() {
			w.subscriptions = append(w.subscriptions, storage.Subscription{
				Client: id, Filter: filter, Qos: sub.Qos, Identifier: sub.Identifier, NoLocal: sub.NoLocal,
				RetainHandling: sub.RetainHandling, RetainAsPublished: sub.RetainAsPublished,
			})
		}
		for _, pk := range client.State.Inflight.GetAll(false) {
			m := stored(pk)
			m.Client = id
			w.receiving = append(w.receiving, m)
		}
	}
	for topic, pk := range server.Topics.Retained.GetAll() {
		if len(topic) > 0 && topic[0] != '$' {
			w.retained = append(w.retained, stored(pk))
		}
	}
}

func stored(pk packets.Packet) storage.Message {
	return storage.Message{
		FixedHeader: pk.FixedHeader, PacketID: pk.PacketID, TopicName: pk.TopicName, Payload: pk.Payload,
		Origin: pk.Origin, Created: pk.Created,
	}
}

// StoredClients returns the persistent sessions of the server before this one.
func (w *window) StoredClients() ([]storage.Client, error) { return w.clients, nil }

// StoredSubscriptions returns their subscriptions.
func (w *window) StoredSubscriptions() ([]storage.Subscription, error) { return w.subscriptions, nil }

// StoredInflightMessages returns the state of the messages they were publishing at QoS 2.
func (w *window) StoredInflightMessages() ([]storage.Message, error) { return w.receiving, nil }

// StoredRetainedMessages returns the retained messages.
func (w *window) StoredRetainedMessages() ([]storage.Message, error) { return w.retained, nil }

// unacked counts our messages, and those that went mochi's own way: retained ones and wills.
func (w *window) unacked(server *mochi.Server, clientID string) (int, error) {
	s := w.session(clientID)
	if s == nil {
		return 0, fmt.Errorf("client %q: %w", clientID, ErrNoSession)
	}
	n := s.unacked()
	if server == nil {
		return n, nil
	}
	if client, ok := server.Clients.Get(clientID); ok {
		for _, pk := range client.State.Inflight.GetAll(false) {
			if t := pk.FixedHeader.Type; t == packets.Publish || t == packets.Pubrel {
				n++
			}
		}
	}
	return n, nil
}
