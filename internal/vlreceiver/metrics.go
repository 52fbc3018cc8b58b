package vlreceiver

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// counters are those of /metrics. The real server caches its answer for a second, this one does not.
type counters struct {
	jsonLine, lokiJSON                                     protocolCounters
	droppedDebug, droppedFields, droppedOld, droppedFuture atomic.Uint64
	tooLong, unsupported, unauthorized                     atomic.Uint64
}

// protocolCounters count rows and their estimated bytes before drops.
type protocolCounters struct {
	requests, errors, rows, bytes atomic.Uint64
}

func (l *life) metrics(w http.ResponseWriter) {
	c := &l.counters
	var b strings.Builder
	put := func(name string, value uint64) { fmt.Fprintf(&b, "%s %d\n", name, value) }
	put(`vl_http_requests_total{path="/insert/jsonline"}`, c.jsonLine.requests.Load())
	put(`vl_http_requests_total{path="/insert/loki/api/v1/push",format="json"}`, c.lokiJSON.requests.Load())
	put(`vl_http_errors_total{path="/insert/jsonline"}`, c.jsonLine.errors.Load())
	put(`vl_rows_ingested_total{type="jsonline"}`, c.jsonLine.rows.Load())
	put(`vl_rows_ingested_total{type="loki_json"}`, c.lokiJSON.rows.Load())
	put(`vl_bytes_ingested_total{type="jsonline"}`, c.jsonLine.bytes.Load())
	put(`vl_bytes_ingested_total{type="loki_json"}`, c.lokiJSON.bytes.Load())
	put(`vl_rows_dropped_total{reason="debug"}`, c.droppedDebug.Load())
	put(`vl_rows_dropped_total{reason="too_many_fields"}`, c.droppedFields.Load())
	put(`vl_rows_dropped_total{reason="too_small_timestamp"}`, c.droppedOld.Load())
	put(`vl_rows_dropped_total{reason="too_big_timestamp"}`, c.droppedFuture.Load())
	put(`vl_too_long_lines_skipped_total`, c.tooLong.Load())
	put(`vm_http_request_errors_total{path="*", reason="unsupported"}`, c.unsupported.Load())
	put(`vm_http_request_errors_total{path="*", reason="wrong_basic_auth"}`, c.unauthorized.Load())
	readOnly := uint64(0)
	if l.srv.readOnly.Load() {
		readOnly = 1
	}
	put(`vl_storage_is_read_only{path="memory"}`, readOnly)
	put(`vm_app_start_timestamp`, uint64(l.started.Unix()))                 //nolint:gosec // after 1970
	put(`vm_app_uptime_seconds`, uint64(time.Since(l.started)/time.Second)) //nolint:gosec // never negative
	answer{status: http.StatusOK, contentType: "text/plain; charset=utf-8", body: b.String()}.write(w)
}
