package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"slackboard/e2e"
)

func tagsConfig(n int) string {
	var b strings.Builder
	b.WriteString("[core]\nchannel_rate = 0\nbatch = 1\nslack_url = 'http://127.0.0.1:1/'\n")
	for i := range n {
		fmt.Fprintf(&b, "[[tags]]\ntag = 't%d'\nchannel = '#c%d'\n", i, i)
	}
	return b.String()
}

// each runs f so many times, from so many goroutines.
func each(times, goroutines int, f func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < times; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// BenchmarkDeliver compares delivery from disk, message after message, with a bare net/http client that has as many
// connections to the same instant receiver.
//
//	go test -run '^$' -bench Deliver -benchtime 5x
func BenchmarkDeliver(b *testing.B) {
	const messages = 5000
	receiver := "http://" + e2e.StartBare(b).Addr + "/"
	payload := []byte(`{"channel":"#c","username":"slackboard","icon_emoji":":clipboard:","parse":"full","text":"` + strings.Repeat("x", 200) + `"}`)
	bareClient := newSlackClient(maxPosts).client
	var bare, ours time.Duration
	for b.Loop() {
		start := time.Now()
		each(messages, maxPosts, func(int) {
			resp, err := bareClient.Post(receiver, "application/json", bytes.NewReader(payload))
			if err != nil {
				b.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		})
		bare += time.Since(start)

		open := make(chan struct{})
		client := newSlackClient(maxPosts)
		p := newInProcess(b, testConfig(b, tagsConfig(maxPosts)), posterFunc(func(_ credential, body []byte) outcome {
			<-open
			return client.post(context.Background(), credential{url: newSecret(receiver)}, body)
		}))
		each(messages, maxPosts, func(i int) {
			m := &message{ID: newID(), Text: strings.Repeat("x", 200), route: route{tag: fmt.Sprintf("t%d", i%maxPosts)}}
			if err := p.deliver.store([]*message{m}); err != nil {
				b.Error(err)
			}
		})
		start = time.Now()
		close(open)
		e2e.Poll(b, "all is delivered", func() bool { return p.stats.waiting() == 0 })
		ours += time.Since(start)
		p.stop()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(messages*b.N)/ours.Seconds(), "posts/s")
	b.ReportMetric(bare.Seconds()/ours.Seconds(), "ratio")
}

// BenchmarkStore is what one accepted message costs, without the network: time and allocations, with few tags and with many.
func BenchmarkStore(b *testing.B) {
	for _, tags := range []int{10, 100_000} {
		b.Run(fmt.Sprintf("tags=%d", tags), func(b *testing.B) {
			p := newInProcess(b, testConfig(b, tagsConfig(tags)), posterFunc(func(credential, []byte) outcome { return down(0, recorded{}) }))
			text := strings.Repeat("x", 200)
			b.ReportAllocs()
			b.ResetTimer()
			each(b.N, 64, func(i int) {
				r := httptest.NewRequest("POST", "/notify", strings.NewReader(fmt.Sprintf(`{"tag":"t%d","text":"%s"}`, i%10, text)))
				w := httptest.NewRecorder()
				p.http.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Error(w.Code, w.Body)
				}
			})
			b.StopTimer()
			p.stop()
		})
	}
}
