// Prints what fires, and what keeps firings away, until Ctrl-C:
//
//	go run . 127.0.0.1:50071 vcr
package main

import (
	"context"
	"fmt"
	"log"
	"math/rand"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "example.com/watch/gen/saewatch/v1"
)

const silence = 5 * time.Second // the sidecar says something each second

type watcher struct {
	client      pb.FiringServiceClient
	categories  []string
	resumeToken string
}

func main() {
	conn, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	w := &watcher{client: pb.NewFiringServiceClient(conn), categories: os.Args[2:]}
	for attempt := 0; ; attempt++ {
		began := time.Now()
		err := w.watch()
		switch status.Code(err) {
		case codes.InvalidArgument, codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented:
			log.Fatal(err) // asking again cannot help
		}
		fmt.Println("DISCONNECTED:", err)
		if time.Since(began) > 10*time.Second {
			attempt = 0
		}
		ceiling := 10 * time.Second
		if attempt < 6 {
			ceiling = 200 * time.Millisecond << attempt
		}
		time.Sleep(time.Duration(rand.Int63n(int64(ceiling))))
	}
}

// watch reads one stream until it ends.
func (w *watcher) watch() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	timer := time.AfterFunc(silence, cancel)
	defer timer.Stop()
	request := &pb.WatchFiringsRequest{
		Filter:      &pb.FiringFilter{Categories: w.categories},
		ResumeToken: w.resumeToken,
	}
	stream, err := w.client.WatchFirings(ctx, request)
	if err != nil {
		return err
	}
	tables := map[uint32]*pb.FeatureTable{} // numbers mean nothing beyond a connection
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		timer.Reset(silence)
		switch event := message.Event.(type) {
		case *pb.WatchFiringsResponse_Table:
			tables[event.Table.Number] = event.Table
		case *pb.WatchFiringsResponse_Batch:
			table, ok := tables[event.Batch.Table]
			if !ok {
				log.Fatalf("batch of table %d, which was not sent", event.Batch.Table)
			}
			w.show(event.Batch, table)
		case *pb.WatchFiringsResponse_Coverage:
			for _, one := range event.Coverage.Blind {
				fmt.Printf("BLIND: %s %s, %s. %s\n", one.Scope, one.Subject, one.Reason, one.Hint)
			}
		case *pb.WatchFiringsResponse_Gap:
			fmt.Printf("GAP: %v\n", event.Gap)
		case *pb.WatchFiringsResponse_Ended:
			fmt.Println(event.Ended.Request.ClientId, "ended")
		}
		if message.ResumeToken != "" {
			w.resumeToken = message.ResumeToken // after the event was dealt with, never before
		}
	}
}

// show prints a batch. Rows are numbered over the spans; a feature fires where one of its slots fires above the
// feature's own floor.
func (w *watcher) show(batch *pb.FiringBatch, table *pb.FeatureTable) {
	span, first := 0, uint32(0) // first: row of the span
	for i, row := range batch.Row {
		for row >= first+batch.SpanTokens[span] {
			first += batch.SpanTokens[span]
			span++
		}
		position := batch.SpanPosition[span] + row - first
		who, part := "unknown", "?"
		if index := batch.SpanRequest[span]; int(index) < len(batch.Requests) { // 4294967295: not known
			request := batch.Requests[index]
			who, part = request.ClientId, "answer"
			if position < request.PromptLen {
				part = "prompt"
			}
		}
		for _, one := range table.Features {
			if fires(one, batch.Slot[i], batch.Value[i]) && w.wants(one.Feature) {
				fmt.Printf("%s %s %d %s %.2f\n", who, part, position, one.Feature.Id, batch.Value[i])
			}
		}
	}
	for i, tokens := range batch.MissedTokens {
		fmt.Printf("%d tokens not seen: %s\n", tokens, batch.MissedReason[i])
	}
}

func fires(one *pb.WatchedFeature, slot uint32, value float32) bool {
	for _, own := range one.Slots {
		if own == slot {
			return value > one.Feature.Floor
		}
	}
	return false
}

func (w *watcher) wants(feature *pb.Feature) bool {
	for _, category := range w.categories {
		if category == feature.Category {
			return true
		}
	}
	return len(w.categories) == 0
}
