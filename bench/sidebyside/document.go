package main

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// document is what was measured, as Markdown. What was not measured is left out.
func (s *session) document() string {
	d := &document{session: s}
	d.line("# Benchmarks")
	d.line("")
	d.line("Written by `make bench`, which repeats all of it. Everything ran on one machine in one session, ours and the others in turn;")
	d.line("what counts are the ratios. A cell is the median of the rounds, and from where to where they went; a ratio is the median of")
	d.line("the rounds' ratios.")
	d.line("")
	d.conditions()
	d.goals()
	d.flow()
	d.latency()
	d.resources()
	d.growth()
	d.output()
	d.micro()
	d.scale()
	return d.text.String()
}

type document struct {
	*session
	text bytes.Buffer
}

func (d *document) line(format string, args ...any) {
	if len(args) == 0 {
		d.text.WriteString(format)
	} else {
		fmt.Fprintf(&d.text, format, args...)
	}
	d.text.WriteByte('\n')
}

// table writes rows of cells below a head; the first column is text, the others are numbers.
func (d *document) table(head []string, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	d.line("| %s |", strings.Join(head, " | "))
	d.line("|---%s|", strings.Repeat("|---:", len(head)-1))
	for _, row := range rows {
		d.line("| %s |", strings.Join(row, " | "))
	}
	d.line("")
}

func (d *document) conditions() {
	f := d.facts
	d.line("## Conditions")
	d.line("")
	d.line("- %s: %d cores of %s, shared by agent, broker, receiver and load; %s, %s. The load average was %s before and %s after.",
		f.when.Format(time.DateOnly), f.cores, f.cpu, f.system, f.golang, f.loadBefore, f.loadAfter)
	d.line("- Ours is `bin/telegraf` of commit %s, stock is Telegraf 1.37.2 as published, built with the same of its own plugins.", f.commit)
	server := "no VictoriaLogs was on PATH"
	if f.server != "" {
		server = f.server
	}
	d.line("- Broker: %s. Receivers: the stand-in of `internal/vlreceiver`, in the process that measures, and: %s.", f.broker, server)
	d.line("- A message is a JSON object of %d bytes with 6 fields, QoS 1. %d rounds at most, %s in all.", payloadSize, d.rounds,
		f.took.Round(time.Second))
	d.line("- CPU is the time of the agent's process, user and kernel, between two moments at which nothing is under way.")
	d.line("- Peers that are on PATH are taken along: fluent-bit, vector and redpanda-connect, whose adapters are untested, and vlagent.")
	if len(f.peers) > 0 {
		d.line("  Here were: %s.", strings.Join(f.peers, "; "))
	} else {
		d.line("  Here was none.")
	}
	d.line("")
	for _, w := range d.ways {
		d.line("- **%s**: %s.", w.name, w.what)
	}
	d.line("")
	d.line("Stock runs with `flush_interval = \"100ms\"`. It acknowledges a message before it is stored; ours after that.")
	d.line("")
}

// goals compares with what was set out to be reached.
func (d *document) goals() {
	r := d.results
	var rows [][]string
	goal := func(text string, measured float64, shown string, held bool) {
		if math.IsNaN(measured) {
			return
		}
		answer := "**no**"
		if held {
			answer = "yes"
		}
		rows = append(rows, []string{text, shown, answer})
	}
	ratio := func(text string, p, q point, most float64) {
		v := r.ratio(p, q)
		goal(text, v, number(v), v <= most)
	}
	ratioLeast := func(text string, p, q point, least float64) {
		v := r.ratio(p, q)
		goal(text, v, number(v), v >= least)
	}
	most := func(text string, p point, limit float64) {
		v := r.median(p)
		goal(text, v, r.cell(p), v <= limit)
	}
	at := func(measure, name, where, what string) point { return point{measure, name, where, what} }

	ratio("CPU per message, broker to receiver: at most 0.45 of stock's best route", at("flow", ours, standInName, cpuEach),
		at("flow", loki, standInName, cpuEach), 0.45)
	ratio("the same into a real VictoriaLogs", at("flow", ours, realName, cpuEach), at("flow", loki, realName, cpuEach), 0.45)
	ratio("CPU per message: at most 1/40 (0.025) of stock's documented route", at("flow", ours, standInName, cpuEach),
		at("flow", plain, standInName, cpuEach), 1.0/40)
	most("CPU per message: 5 us, the moonshot", at("flow", ours, standInName, cpuEach), 5)
	most("the same behind a broker that costs nothing, whose messages come in larger pieces", at("saturation", ours, "", cpuEach), 5)
	ratioLeast("Saturation: at least 1.5 times stock's best route, through a real broker", at("flow", ours, standInName, rate),
		at("flow", loki, standInName, rate), 1.5)
	ratioLeast("the same behind a broker that is no limit", at("saturation", ours, "", rate), at("saturation", loki, "", rate), 1.5)
	many := strconv.Itoa(manyUnderWay)
	ratioLeast("the same with "+thousands(manyUnderWay)+" messages under way", at("saturation", ours, many, rate), at("saturation", loki, many, rate), 1.5)
	full := at("saturation", ours, many, cores)
	goal("Saturation: not limited by us before a core is full (cores used)", r.median(full), r.cell(full), r.median(full) >= 0.95)
	most("Latency at 100 messages/s: p50 under 10 ms", at("latency", ours, "100", p50), 10)
	most("Latency at 100 messages/s: p99 under 30 ms", at("latency", ours, "100", p99), 30)
	ratio("Memory at 10,000 messages/s: at most stock's (1.0)", at("latency", ours, "10000", memory), at("latency", loki, "10000", memory), 1)
	if sizes := d.backlogs(); r.has(at("backlog", ours, mebibytes(sizes[0]), memory)) {
		low, high := math.Inf(1), 0.0 // with something on disk, whose reading takes its buffers
		for _, size := range sizes[1:] {
			v := r.median(at("backlog", ours, mebibytes(size), memory))
			low, high = min(low, v), max(high, v)
		}
		goal("Memory through an outage: flat whatever the backlog (within 10 %)", high/low, fmt.Sprintf("%s … %s MiB; %s without one",
			number(low), number(high), number(r.median(at("backlog", ours, mebibytes(sizes[0]), memory)))), high/low <= 1.1)
	}
	most("Encoder: no allocations", at("micro", ours, "", encoderAllocs), 0)
	if serial := at("micro", ours, "", thanSerial); r.has(serial) {
		goal("Encoder: at least 10 times Telegraf's json serializer", r.median(serial), r.cell(serial), r.median(serial) >= 10)
	}
	if bare := at("micro", ours, "", thanCopy); r.has(bare) {
		goal("Encoder: within 4 times of copying the same bytes", 1/r.median(bare), number(1/r.median(bare)), 1/r.median(bare) <= 4)
	}
	for _, place := range []string{standInName, realName} {
		ratioLeast("Output alone, into "+place+": at least 0.9 of a bare client's rows", at("output", ours, place, rowRate),
			at("output", bareClient, place, rowRate), 0.9)
	}
	largest := mebibytes(d.restored())
	ratioLeast("Restoring "+largest+": at least 0.9 of that client's rows", at("restore", ours, largest, restoreRow),
		at("restore", bareClient, largest, restoreRow), 0.9)
	most("Idle, one hardware sample a second: under 0.5 % of a core", at("idle", ours, "", idleShare), 0.5)
	ratio("Binary: at most 1.05 of the same Telegraf without our plugins", at("size", ours, "", binarySize), at("size", loki, "", binarySize), 1.05)
	if len(rows) == 0 {
		return
	}
	d.line("## Goals")
	d.line("")
	d.table([]string{"Goal", "measured", "held"}, rows)
}

// names are those of the ways for which a measure has a value.
func (d *document) names(measure, at, what string) (names []string) {
	for _, w := range d.ways {
		if d.results.has(point{measure, w.name, at, what}) {
			names = append(names, w.name)
		}
	}
	return names
}

// compared is a table with a way in each row, and ours as a share of it at the end.
func (d *document) compared(measure, at, main string, columns ...string) {
	var rows [][]string
	for _, name := range d.names(measure, at, main) {
		row := []string{name}
		for _, what := range columns {
			row = append(row, d.results.cell(point{measure, name, at, what}))
		}
		rows = append(rows, append(row, number(d.results.ratio(point{measure, ours, at, main}, point{measure, name, at, main}))))
	}
	d.table(append(append([]string{""}, columns...), "ours : this, "+main), rows)
}

func (d *document) flow() {
	if len(d.names("flow", standInName, rate)) > 0 {
		d.line("## Broker to receiver, as fast as the broker gives")
		d.line("")
		for _, place := range []string{standInName, realName} {
			if len(d.names("flow", place, rate)) == 0 {
				continue
			}
			d.line("Into the receiver: %s.", place)
			d.line("")
			d.compared("flow", place, cpuEach, cpuEach, rate, cores, memory, peakMemory)
		}
	}
	if len(d.names("saturation", "", rate)) > 0 {
		d.line("## Saturation, behind a broker that costs next to nothing")
		d.line("")
		d.line("PUBLISH packets come from a program that only writes them and counts acknowledgements. 1000 are unacknowledged at most, as")
		d.line("`max_undelivered_messages` has it by default:")
		d.line("")
		d.compared("saturation", "", rate, rate, cpuEach, cores, peakMemory)
		d.line("With %s unacknowledged, and that setting for all:", thousands(manyUnderWay))
		d.line("")
		d.compared("saturation", strconv.Itoa(manyUnderWay), rate, rate, cpuEach, cores, peakMemory)
	}
	if len(d.names("window", "", rate)) > 0 {
		d.line("## A window of 20, and acknowledged only when it is stored")
		d.line("")
		d.line("A broker that truly holds its window, and `persistent_session = true`: stock waits for its flush interval at each window.")
		d.line("")
		d.compared("window", "", rate, rate, cpuEach)
	}
}

func (d *document) latency() {
	var rows [][]string
	for _, r := range rates {
		at := strconv.Itoa(r.perSecond)
		for _, name := range d.names("latency", at, p50) {
			row := []string{thousands(int64(r.perSecond)), name}
			for _, what := range []string{p50, p99, rate, cpuEach, requests, wireBytes, memory} {
				row = append(row, d.results.cell(point{"latency", name, at, what}))
			}
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		return
	}
	d.line("## Publish to stored, at steady rates")
	d.line("")
	d.line("From the write of a PUBLISH to the moment at which the stand-in has its row. A way that cannot keep up has a lower rate than")
	d.line("the one it was given, and queues. Bytes are those of requests, with their headers.")
	d.line("")
	d.table([]string{"messages/s given", "", p50, p99, rate, cpuEach, requests, wireBytes, memory}, rows)
}

func (d *document) resources() {
	kinds := []struct{ title, measure, main string }{
		{"Allocations of the whole agent", "allocations", allocated},
		{"Start-up", "startup", startTime},
		{"Idle, one hardware sample a second", "idle", idleShare},
		{"Binary, stripped", "size", binarySize},
	}
	columns := map[string][]string{
		"allocations": {allocated, allocBytes}, "startup": {startTime, memory}, "idle": {idleShare, memory}, "size": {binarySize},
	}
	for _, k := range kinds {
		if len(d.names(k.measure, "", k.main)) == 0 {
			continue
		}
		d.line("## %s", k.title)
		d.line("")
		if k.measure == "idle" {
			d.line("Ours samples all that it can; stock has cpu, disk, diskio, mem, net, swap, system and temp, into `outputs.loki`.")
			d.line("")
		}
		d.compared(k.measure, "", k.main, columns[k.measure]...)
		if k.measure == "size" {
			d.sizes()
		}
	}
}

// sizes says why the binaries are as large as they are.
func (d *document) sizes() {
	d.line("Both are static, without symbols, and have the same plugins of Telegraf's, which are nearly all of it: parsers with a schema")
	d.line("registry, Elasticsearch's client, SNMP, CEL, Starlark. What ours adds is, by `go tool nm` and in this order: the input with all")
	d.line("that it reads hardware and payloads with, the embedded broker (mochi-mqtt), `dlq`, the two outputs, MQTT 5's library; and as")
	d.line("much again in the tables which Go keeps for the stacks and types of that code. Compression, TLS, HTTP and MQTT 3.1.1 are")
	d.line("Telegraf's anyway. Fewer of Telegraf's plugins, in `telegraf.tags`, are the way to a smaller one.")
	if len(d.facts.programs) > 0 {
		d.line("")
		d.line("The other programs have no agent: %s. Other platforms are in [packaging.md](packaging.md).", strings.Join(d.facts.programs, ", "))
	}
	d.line("")
}

// micro shows what the micro-benchmarks printed.
func (d *document) micro() {
	if len(d.facts.micro) == 0 {
		return
	}
	d.line("## Micro-benchmarks")
	d.line("")
	d.line("As `go test -bench` prints them. Where a unit is two names and a `/`, ours and others had short turns, and it tells how many")
	d.line("times as long the others take. `copy` is a single copy of the bytes that come out, the limit of any encoder. Ours makes a row of")
	d.line("ten names and values, most of them numbers to be written as text: at two nanoseconds a byte it is far from that limit, and far")
	d.line("below the compression that follows it.")
	d.line("")
	d.line("```text")
	for _, line := range d.facts.micro {
		d.line("%s", line)
	}
	d.line("```")
	d.line("")
}

// growth shows what a message costs as something else grows.
func (d *document) growth() {
	var rows [][]string
	for _, topics := range []string{"1", "100", "10,000", "100,000"} {
		for _, name := range d.names("topics", topics, cpuEach) {
			rows = append(rows, []string{
				topics, name, d.results.cell(point{"topics", name, topics, cpuEach}), d.results.cell(point{"topics", name, topics, memory}),
			})
		}
	}
	if len(rows) > 0 {
		d.line("## As topics grow in number")
		d.line("")
		d.table([]string{"topics", "", cpuEach, memory}, rows)
	}
	rows = nil
	for _, size := range d.backlogs() {
		at := mebibytes(size)
		if d.results.has(point{"backlog", ours, at, cpuEach}) {
			rows = append(rows, []string{
				at, d.results.cell(point{"backlog", ours, at, cpuEach}), d.results.cell(point{"backlog", ours, at, memory}),
				d.results.cell(point{"backlog", ours, at, peakMemory}),
			})
		}
	}
	if len(rows) > 0 {
		d.line("## As the backlog grows")
		d.line("")
		d.line("The server is away and so much lies on disk; 10,000 messages a second come in, each acknowledged when it is fsynced.")
		d.line("")
		d.table([]string{"backlog", cpuEach, memory, peakMemory}, rows)
	}
}

func (d *document) output() {
	var rows [][]string
	for _, place := range []string{standInName, realName} {
		for _, name := range []string{ours, bareClient, bareOne, throughVlagent} {
			p := point{"output", name, place, rowRate}
			if d.results.has(p) {
				rows = append(rows, []string{
					place, name, d.results.cell(p), number(d.results.ratio(point{"output", ours, place, rowRate}, p)),
					d.results.cell(point{"output", name, place, cpuEach}),
				})
			}
		}
	}
	if len(rows) > 0 {
		d.line("## The output alone, fed from memory")
		d.line("")
		d.line("Beside it a bare HTTP client posts the bodies which the output would make, ready-made, on as many connections (2). The receiver")
		d.line("has a core of its own, as if it were another machine, and the sender the others. The stand-in only counts rows: it takes")
		d.line("several times as many as VictoriaLogs does with a core, so there it is the sender that is measured.")
		d.line("")
		d.table([]string{"into", "", rowRate, "ours : this", "CPU us/row"}, rows)
	}
	rows = nil
	at := mebibytes(d.restored())
	for _, name := range []string{ours, bareClient} {
		if p := (point{"restore", name, at, restoreRow}); d.results.has(p) {
			rows = append(rows, []string{
				name, d.results.cell(p), number(d.results.ratio(point{"restore", ours, at, restoreRow}, p)),
				d.results.cell(point{"restore", name, at, cpuEach}), d.results.cell(point{"restore", name, at, peakMemory}),
			})
		}
	}
	if len(rows) > 0 {
		d.line("## Restoring %s of dead letters", at)
		d.line("")
		d.line("A running agent and nothing else to do; beside it the bare client with the same bodies from memory, on two connections. The")
		d.line("receiver is the stand-in, with a core of its own.")
		d.line("")
		d.table([]string{"", restoreRow, "ours : this", "CPU us/row", peakMemory}, rows)
	}
}

// scale is the model: what the numbers above say of other sizes.
func (d *document) scale() {
	r := d.results
	each := r.median(point{"saturation", ours, "", cpuEach})
	if math.IsNaN(each) {
		each = r.median(point{"flow", ours, standInName, cpuEach})
	}
	if math.IsNaN(each) && !r.has(point{"fleet", "", "memory", "steady"}) {
		return
	}
	d.line("## Scale model")
	d.line("")
	d.line("From the numbers above, with the formulas, so that others can be put in. 0.7 is how full a core should be.")
	d.line("")
	if !math.IsNaN(each) {
		d.line("**One core.** c = %s us of CPU for a message under load (saturation). A core carries 1,000,000 / c = %s messages a second at", number(each),
			number(1e6/each))
		d.line("most, and 0.7 of it, **%s**, with room to spare. At low rates a message costs more, since each is a request of its own:", number(0.7e6/each))
		d.line("")
		var rows [][]string
		for _, rate := range rates {
			p := point{"latency", ours, strconv.Itoa(rate.perSecond), cpuEach}
			if r.has(p) {
				rows = append(rows, []string{
					thousands(int64(rate.perSecond)), number(r.median(p)), number(100*r.median(p)*float64(rate.perSecond)/1e6) + " %",
				})
			}
		}
		d.table([]string{"messages/s", "c, us", "of a core: rate * c"}, rows)
		d.line("**When to add `$share` members.** One agent receives on one connection. Add members of a shared subscription when")
		d.line("rate > 0.7 * 1,000,000 / c, members = rate * c / 700,000, rounded up, each on a core of its own:")
		d.line("")
		rows = nil
		for _, rate := range []int{10_000, 50_000, 100_000, 200_000, 500_000} {
			rows = append(rows, []string{thousands(int64(rate)), strconv.Itoa(int(math.Ceil(float64(rate) * each / 0.7e6)))})
		}
		d.table([]string{"messages/s", "members"}, rows)
	}
	d.nodes()
	d.disk()
	d.fleet()
}

// nodes says how many gateways one VictoriaLogs node takes.
func (d *document) nodes() {
	r := d.results
	cost := func(rows string) float64 { return r.median(point{"server", "", rows, serverCost}) }
	one, many := cost("1"), cost("1000")
	if math.IsNaN(one) {
		d.line("**Gateways for a VictoriaLogs node** were not measured: there was no real server.")
		d.line("")
		return
	}
	row := (1000*many - one) / 999
	request := one - row
	d.line("**Gateways for a VictoriaLogs node.** A real server needs these times of CPU for a row, by the rows in a request; through")
	d.line("1 and 1000 goes a = %s us for a request and b = %s us for a row.", number(request), number(row))
	d.line("")
	var rows [][]string
	for _, n := range []string{"1", "10", "100", "1000"} {
		count, _ := strconv.ParseFloat(n, 64) // it is a number
		rows = append(rows, []string{n, r.cell(point{"server", "", n, serverCost}), number(request/count + row)})
	}
	d.table([]string{"rows/request", serverCost, "a / rows + b"}, rows)
	d.line("A gateway with r messages and q requests a second takes r * b + q * a of it, and a node with n cores serves")
	d.line("0.7 * n * 1,000,000 / (r * b + q * a) of them, if its disk keeps up:")
	d.line("")
	rows = nil
	for _, rate := range rates {
		p := point{"latency", ours, strconv.Itoa(rate.perSecond), requests}
		if !r.has(p) {
			continue
		}
		messages := float64(rate.perSecond)
		use := messages*row + messages*r.median(p)*request
		cells := []string{thousands(int64(rate.perSecond)), number(messages * r.median(p)), number(use)}
		for _, cores := range []float64{2, 8, 32} {
			cells = append(cells, whole(math.Floor(0.7e6*cores/use)))
		}
		rows = append(rows, cells)
	}
	d.table([]string{"r, messages/s", "q, requests/s", "server us/s", "gateways on 2 cores", "8 cores", "32 cores"}, rows)
	d.line("A cluster has as many times more as it has vlstorage nodes, which the rows are spread over; vlinsert costs the part a.")
	d.line("")
}

// disk says what an outage takes.
func (d *document) disk() {
	var rows [][]string
	for _, rate := range rates {
		p := point{"disk", ours, strconv.Itoa(rate.perSecond), diskBytes}
		if !d.results.has(p) {
			continue
		}
		each := d.results.median(p)
		day := each * float64(rate.perSecond) * 86_400
		rows = append(rows, []string{
			thousands(int64(rate.perSecond)), number(each), number(day / (1 << 30)),
			number(10 * float64(1<<30) / (each * float64(rate.perSecond)) / 3600),
		})
	}
	if len(rows) == 0 {
		return
	}
	d.line("**Disk for an outage.** bytes * rate * 86,400 s for a day; the hours are those that the default max_size of 10 GiB lasts. At low")
	d.line("rates a dead letter holds few rows, so its head weighs more and its rows compress less.")
	d.line("")
	d.table([]string{"messages/s", diskBytes, "GiB a day", "hours in 10 GiB"}, rows)
}

// fleet shows the simulation.
func (d *document) fleet() {
	titles := []struct{ name, title string }{
		{"memory", "refused, 5 times"},
		{"disk", "refused, 5 times, dead letters"},
		{"read_only", "429, 5 times"},
		{"small", "refused, 2 times"},
		{"large", "refused, 1000 times"},
		{"large_disk", "refused, 1000 times, dead letters"},
	}
	var rows [][]string
	for _, t := range titles {
		at := func(key string) float64 { return d.results.median(point{"fleet", "", t.name, key}) }
		if math.IsNaN(at("steady")) {
			continue
		}
		row := []string{t.title}
		for _, key := range []string{"agents", "steady", "capacity", "begin", "away", "after", "until", "late"} {
			row = append(row, whole(at(key)))
		}
		rows = append(rows, slices.Clone(row))
	}
	if len(rows) == 0 {
		return
	}
	d.line("**Agents that return.** A simulation in virtual time (`TestFleet` of `outputs/victorialogs`) runs the real plugin many times over against")
	d.line("one server that is away for five minutes, and can do so many times the steady traffic. Each agent has a metric every ten")
	d.line("seconds, which is a batch of its own: nothing is gathered, so this is the worst case.")
	d.line("")
	d.table([]string{
		"server", "agents", "steady requests/s", "capacity", "most requests/s as it goes", "while it is away", "when it is back", "until steady, s",
		"longest request, ms",
	}, rows)
	d.line("No request is lost or sent twice. An agent has two requests under way at most, one while the server is away, and its probes are")
	d.line("spread by a jittered backoff of up to 30 s: a server that is back gets no more than it takes.")
	d.line("")
}
