package victorialogs

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/influxdata/telegraf/config"
	"github.com/influxdata/telegraf/testutil"

	"github.com/edgetide/telegraf-victorialogs/internal/vlreceiver"
)

// checked is a plugin that is initialized and not connected.
func checked(t *testing.T, change ...func(*VictoriaLogs)) *VictoriaLogs {
	t.Helper()
	v := New()
	v.Log = testutil.Logger{}
	for _, c := range change {
		c(v)
	}
	require.NoError(t, v.Init())
	return v
}

func TestSendOneAndQuery(t *testing.T) {
	for _, server := range servers {
		t.Run(server.name, func(t *testing.T) {
			url := server.start(t)
			for i, encoding := range encodings {
				v := checked(t, at(url), encodedAs(encoding), func(v *VictoriaLogs) { v.AccountID, v.ProjectID = 3, int64(i) })
				require.Equal(t, url, v.Server())
				now := time.Now()
				m := newMetric("m", map[string]string{"host": "a"}, pairs("id", "x"+encoding))
				m.SetTime(now)
				receipt, err := v.SendOne(t.Context(), m)
				require.NoError(t, err)
				require.WithinDuration(t, now, receipt.Date, time.Minute)

				day := now.UTC().Truncate(24 * time.Hour)
				query := fmt.Sprintf(`_time:[%s, %s] id:="x%s"`, day.Format(time.RFC3339), day.Add(48*time.Hour).Format(time.RFC3339), encoding)
				var rows []map[string]string
				require.Eventually(t, func() bool {
					rows, err = v.Query(t.Context(), query)
					return err != nil || len(rows) > 0
				}, 20*time.Second, 50*time.Millisecond)
				require.NoError(t, err)
				require.Len(t, rows, 1)
				require.Equal(t, "a", rows[0]["host"])

				v = checked(t, at(url)) // of another tenant
				rows, err = v.Query(t.Context(), query)
				require.NoError(t, err)
				require.Empty(t, rows)
			}
		})
	}
}

func TestCheckFailures(t *testing.T) {
	s := receiver(t, vlreceiver.Config{Auth: vlreceiver.Auth{Username: "me", Password: "right"}})
	m := newMetric("m", nil, pairs("a", 1))
	m.SetTime(time.Now())

	v := checked(t, at(s.URL()), func(v *VictoriaLogs) {
		v.Username, v.Password = config.NewSecret([]byte("me")), config.NewSecret([]byte("wrong"))
	})
	receipt, err := v.SendOne(t.Context(), m)
	var failure *Failure
	require.ErrorAs(t, err, &failure)
	require.Equal(t, http.StatusUnauthorized, failure.Status)
	require.False(t, receipt.Date.IsZero(), "the clock is known all the same")
	_, err = v.Query(t.Context(), "*")
	require.ErrorAs(t, err, &failure)
	require.Equal(t, http.StatusUnauthorized, failure.Status)

	require.NoError(t, s.Close())
	_, err = v.SendOne(t.Context(), m)
	require.ErrorIs(t, err, ErrCannotConnect)
	_, err = v.Query(t.Context(), "*")
	require.ErrorAs(t, err, &failure)

	for _, filler := range []int{0, 1 << 17, 1 << 20} {
		page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("<html>welcome" + strings.Repeat("!", filler) + "</html>"))
		}))
		t.Cleanup(page.Close)
		_, err = checked(t, at(page.URL)).Query(t.Context(), "*")
		require.ErrorIs(t, err, ErrNoRows, filler)
	}
}
