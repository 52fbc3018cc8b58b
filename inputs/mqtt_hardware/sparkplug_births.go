package mqtt_hardware

// maxBirthBytes bounds what birth messages take in memory, by estimate: 100,000 metrics or more.
const maxBirthBytes = 32 << 20

// births are what the last birth messages said of nodes and devices: which metric an alias stands for, and of which type
// metrics are. Beyond the bound the node that was asked for the longest ago is forgotten; its data then has names such
// as alias_7 until its next birth.
type births struct {
	nodes map[nodeID]*nodeBirths
	size  int
	most  int
	clock uint64 // counts what is asked and noted
}

type nodeID struct{ group, node string }

type nodeBirths struct {
	devices map[string]*birth // the node's own has the name ""
	size    int
	used    uint64
}

// birth is what one message said.
type birth struct {
	names     map[uint64]string // by alias
	types     map[string]uint32 // by name
	session   uint64            // bdSeq: the node counts its connections; the same in its death
	inSession bool
	size      int
}

func newBirths(most int) *births { return &births{nodes: make(map[nodeID]*nodeBirths), most: most} }

func newBirth() *birth {
	return &birth{names: make(map[uint64]string), types: make(map[string]uint32), size: 200}
}

func (b *birth) add(m sparkplugMetric) {
	if m.name == "" {
		return
	}
	if m.name == "bdSeq" {
		b.session, b.inSession = m.value.bits, true
	}
	b.types[m.name] = m.datatype
	if m.hasAlias {
		b.names[m.alias] = m.name
	}
	b.size += 2*len(m.name) + 100
}

// resolve finds a metric's name and type, of which a data message has one at most.
func (b *birth) resolve(m sparkplugMetric) (name string, datatype uint32, ok bool) {
	name = m.name
	if b != nil && name == "" && m.hasAlias {
		name = b.names[m.alias]
	}
	datatype = m.datatype
	if b != nil && datatype == 0 {
		datatype = b.types[name]
	}
	return name, datatype, name != ""
}

func (b *births) find(t sparkplugTopic) *birth {
	n := b.nodes[nodeID{t.group, t.node}]
	if n == nil {
		return nil
	}
	b.clock++
	n.used = b.clock
	return n.devices[t.device]
}

// replace notes a birth. When a node is born in another session than before, its devices are not born yet.
func (b *births) replace(t sparkplugTopic, born *birth) {
	id := nodeID{t.group, t.node}
	n := b.nodes[id]
	if n != nil && t.device == "" {
		if old := n.devices[""]; old == nil || !old.inSession || !born.inSession || old.session != born.session {
			b.forget(id)
			n = nil
		}
	}
	if n == nil {
		n = &nodeBirths{devices: make(map[string]*birth)}
		b.nodes[id] = n
	}
	b.drop(n, t.device)
	n.devices[t.device] = born
	n.size += born.size
	b.size += born.size
	b.clock++
	n.used = b.clock
	for b.size > b.most {
		b.forgetOldest()
	}
}

// end forgets a device, or a node and its devices. The broker sends a node's death late when it was lost and is already
// back, in another session, which goes on.
func (b *births) end(t sparkplugTopic, death *birth) {
	id := nodeID{t.group, t.node}
	n := b.nodes[id]
	if n == nil {
		return
	}
	if t.device != "" {
		b.drop(n, t.device)
		return
	}
	if own := n.devices[""]; own != nil && own.inSession && death.inSession && own.session != death.session {
		return
	}
	b.forget(id)
}

func (b *births) drop(n *nodeBirths, device string) {
	if old := n.devices[device]; old != nil {
		delete(n.devices, device)
		n.size -= old.size
		b.size -= old.size
	}
}

func (b *births) forget(id nodeID) {
	if n := b.nodes[id]; n != nil {
		b.size -= n.size
		delete(b.nodes, id)
	}
}

func (b *births) forgetOldest() {
	var oldest nodeID
	var used uint64
	for id, n := range b.nodes {
		if used == 0 || n.used < used {
			oldest, used = id, n.used
		}
	}
	b.forget(oldest)
}
