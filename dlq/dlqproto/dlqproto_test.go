package dlqproto_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/edgetide/telegraf-victorialogs/dlq"
	"github.com/edgetide/telegraf-victorialogs/dlq/dlqproto"
)

func TestMessagesComeBack(t *testing.T) {
	disk, err := dlq.OpenDisk(t.TempDir(), dlq.DiskOptions{})
	require.NoError(t, err)
	queue, err := dlq.NewQueue(disk, dlqproto.Encode[*timestamppb.Timestamp], dlq.QueueOptions{Capacity: 1 << 20})
	require.NoError(t, err)
	want := []*timestamppb.Timestamp{timestamppb.New(time.Unix(1, 2)), {}, timestamppb.New(time.Unix(3, 4))}
	for _, message := range want {
		require.NoError(t, queue.Enqueue(t.Context(), message))
	}
	require.NoError(t, queue.Close(t.Context()))
	var got []*timestamppb.Timestamp
	restorer, err := dlq.NewRestorer(disk, dlqproto.Decode[*timestamppb.Timestamp], func(_ context.Context, m *timestamppb.Timestamp) error {
		got = append(got, m)
		return nil
	}, dlq.RestorerOptions[*timestamppb.Timestamp]{})
	require.NoError(t, err)
	require.NoError(t, restorer.Drain(t.Context()))
	require.NoError(t, disk.Close())
	require.Len(t, got, len(want))
	for i := range want {
		require.True(t, proto.Equal(want[i], got[i]))
	}
	_, err = dlqproto.Decode[*timestamppb.Timestamp]([]byte{0xff})
	require.Error(t, err)
}
