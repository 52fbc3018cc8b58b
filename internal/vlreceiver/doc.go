// Package vlreceiver stands in for VictoriaLogs in tests, benchmarks and the quickstart.
//
// A [Server] is a real HTTP server on a real socket. On /insert/jsonline and on the JSON form of
// /insert/loki/api/v1/push it takes, drops, alters and refuses rows as VictoriaLogs v1.26 with default flags does,
// silent drops included; contract_test.go runs one table against both. Three things differ on purpose: rows are
// visible as soon as they are stored, they survive [Server.Down] and [Server.Restart], and there is no insert queue.
//
// Reading over HTTP is limited to the queries `*` and `* | stats count() n` with the argument limit. Anything else
// is refused with a 400 that says so, and other ingestion protocols with a 501: the stand-in has no wrong answers.
// Where VictoriaLogs itself answers a row with duplicate keys differently depending on its neighbours in the block,
// the stand-in answers as for a row alone in its block. It does not limit the number of distinct field names of a
// stream (2000 a block), and a _stream_id has the right shape but another hash.
//
// Trouble is made with [Server.Fail], [Server.SetReadOnly], [Server.Down], [Server.Up] and [Server.Restart]. Faults
// hit insert requests only; /health, /metrics and queries stay honest, so that a test can look on.
//
// All methods may be called concurrently. Nothing is written to disk.
package vlreceiver
