package vlreceiver

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever is a JSON object becomes fields; whatever is not must not panic.
func FuzzFields(f *testing.F) {
	f.Add(`{"_msg":"a","n":1.5,"o":{"p":[1,{"q":null}],"":"x"},"e":"\u00e9\ud83d\ude00\q\""}`)
	f.Add(`{"` + strings.Repeat("k", 129) + `":{"a":"b"}}`)
	f.Add(`{"a":NaN,"b":-inf,"c":--1}`)
	f.Add(`{"a":"\\\"`)
	f.Fuzz(func(t *testing.T, line string) {
		var p parser
		fields, err := p.appendFields(nil, []byte(line))
		var object map[string]any
		if json.Unmarshal([]byte(line), &object) == nil && object != nil && strings.Count(line, "[")+strings.Count(line, "{") < maxDepth {
			require.NoError(t, err)
		}
		if err != nil {
			return
		}
		for _, f := range fields {
			require.NotEmpty(t, f.name)
			require.LessOrEqual(t, len(f.name), maxNameBytes)
		}
	})
}
