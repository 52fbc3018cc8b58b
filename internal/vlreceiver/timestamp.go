package vlreceiver

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"time"
)

// parseTime reads a time as VictoriaLogs does: RFC 3339 with up to nine digits after the second, also with a space
// for the T and without a zone (then local time), or unix time. It returns nanoseconds, and 0, which means now, where
// the text says nothing.
func parseTime(text []byte) (int64, bool) {
	if len(text) == 0 || len(text) == 1 && text[0] == '-' {
		return 0, true
	}
	if len(text) > 4 && text[4] == '-' {
		return parseDate(text)
	}
	return parseUnix(string(text))
}

// parseDate reads 2006-01-02T15:04:05.999999999Z07:00. Numbers that are too large carry over, as in [time.Date].
func parseDate(b []byte) (int64, bool) {
	if len(b) < len("2006-01-02T15:04:05") ||
		b[7] != '-' || b[10] != 'T' && b[10] != ' ' || b[13] != ':' || b[16] != ':' {
		return 0, false
	}
	year, ok1 := number(b[:4])
	month, ok2 := number(b[5:7])
	day, ok3 := number(b[8:10])
	hour, ok4 := number(b[11:13])
	minute, ok5 := number(b[14:16])
	second, ok6 := number(b[17:19])
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || !ok6 || year < 1677 || year > 2262 {
		return 0, false
	}
	secs := time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC).Unix()
	if secs < math.MinInt64/int64(time.Second) || secs >= math.MaxInt64/int64(time.Second) {
		return 0, false
	}
	frac, offset, ok := cutZone(b[19:])
	if !ok {
		return 0, false
	}
	ns := secs*1e9 - offset
	if len(frac) == 0 {
		return ns, true
	}
	frac = bytes.TrimPrefix(frac, []byte("."))
	n, ok := number(frac)
	if !ok {
		return 0, false
	}
	for range 9 - len(frac) {
		n *= 10
	}
	return ns + int64(n), true
}

// cutZone splits the zone off the end and returns it as nanoseconds east of UTC.
func cutZone(b []byte) (rest []byte, offset int64, ok bool) {
	if rest, ok := bytes.CutSuffix(b, []byte("Z")); ok {
		return rest, 0, true
	}
	n := bytes.LastIndexAny(b, "+-")
	if n < 0 {
		_, seconds := time.Now().Zone()
		return b, int64(seconds) * 1e9, true
	}
	zone := b[n+1:]
	if len(zone) != len("07:00") || zone[2] != ':' {
		return nil, 0, false
	}
	hours, ok1 := number(zone[:2])
	minutes, ok2 := number(zone[3:])
	if !ok1 || !ok2 || hours > 24 || minutes > 60 {
		return nil, 0, false
	}
	offset = int64(time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute)
	if b[n] == '-' {
		offset = -offset
	}
	return b[:n], offset, true
}

// number reads one to nine digits.
func number(b []byte) (int, bool) {
	if len(b) == 0 || len(b) > 9 {
		return 0, false
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, true
}

// parseUnix reads unix time as an integer, a decimal or in scientific notation. Its magnitude tells its unit.
func parseUnix(s string) (int64, bool) {
	mantissa, exponent, scientific := strings.Cut(s, "e")
	if !scientific {
		mantissa, exponent, scientific = strings.Cut(s, "E")
	}
	whole, frac, dotted := strings.Cut(mantissa, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return 0, false
	}
	var shift int // decimal digits that n must move to the left
	if scientific {
		shift, err = strconv.Atoi(exponent)
		if err != nil || shift < len(frac) {
			return 0, false
		}
	} else {
		for shift = len(frac); shift%3 != 0; { // to whole ms, us or ns
			shift++
		}
	}
	n, ok := decimal(n, frac, dotted)
	if !ok {
		return 0, false
	}
	n, ok = shiftLeft(n, shift-len(frac))
	return withUnit(n), ok
}

// decimal returns whole.frac as an integer, the dot taken out.
func decimal(whole int64, frac string, dotted bool) (int64, bool) {
	if !dotted {
		return whole, true
	}
	f, err := strconv.ParseInt(frac, 10, 64)
	if err != nil {
		return 0, false
	}
	n, ok := shiftLeft(whole, len(frac))
	if !ok || n >= 0 && n > math.MaxInt64-f || n < 0 && n < math.MinInt64+f {
		return 0, false
	}
	if n < 0 {
		return n - f, true
	}
	return n + f, true
}

func shiftLeft(n int64, digits int) (int64, bool) {
	if digits < 0 || digits > 18 {
		return 0, false
	}
	for range digits {
		if n > math.MaxInt64/10 || n < math.MinInt64/10 {
			return 0, false
		}
		n *= 10
	}
	return n, true
}

func withUnit(n int64) int64 {
	const second = 1 << 31
	switch {
	case -second <= n && n < second:
		return n * 1e9
	case -second*1e3 <= n && n < second*1e3:
		return n * 1e6
	case -second*1e6 <= n && n < second*1e6:
		return n * 1e3
	}
	return n
}
