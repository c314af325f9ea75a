package main

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// The last that were delivered are shown, the newest first; what was handed out stays as it was when more come.
func TestDeliveredList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var list deliveredList
		cfg := dryRunConfig()
		for i := range deliveredKept {
			list.add(&message{ID: fmt.Sprint(i)}, 1)
			time.Sleep(time.Second)
		}
		first := list.views(cfg)[deliveredKept-1]
		at := *first.DeliveredAt
		list.add(&message{ID: "newest"}, 1)
		views := list.views(cfg)
		if len(views) != deliveredKept || views[0].ID != "newest" || views[deliveredKept-1].ID != "1" {
			t.Errorf("got %d, from %s to %s", len(views), views[0].ID, views[deliveredKept-1].ID)
		}
		if first.ID != "0" || !first.DeliveredAt.Equal(at) {
			t.Errorf("message %s was delivered at %v, later at %v", first.ID, at, first.DeliveredAt)
		}
	})
}
