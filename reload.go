package main

// SIGHUP: the configuration is read again, and what waits moves to where it leads then.

import (
	"fmt"
	"net"
	"os"
	"sort"
	"strings"
	"time"
)

// reloadRefused is what the service manager shows after a reload that met an error.
const reloadRefused = "the last reload was refused, the configuration before it stays: see the log"

// reloadAt reads the configuration again at each signal. It runs beside the rest of the server: a file that cannot be opened
// at once, such as a pipe, must not keep that from its stop.
func (o options) reloadAt(signals <-chan os.Signal, d *deliverer, logs *logs, listeners []net.Listener) {
	for range signals {
		tellSystemd("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", monotonicTime().Microseconds()))
		o.reload(d, logs, listeners)
	}
}

// reload reads the configuration again: all of it changes over or, after an error, nothing.
func (o options) reload(d *deliverer, logs *logs, listeners []net.Listener) {
	cfg, err := o.load()
	if err == nil {
		err = logs.change(cfg)
	}
	running := d.cfg.Load()
	d.stats.reloaded(err == nil)
	if err != nil {
		logs.change(running) // logrotate does not wait for a mended configuration
		for line := range strings.Lines(err.Error()) {
			logs.log.Error("the configuration is not read again: the old one stays", "err", strings.TrimSpace(line))
		}
		tellSystemd("READY=1", "STATUS="+reloadRefused)
		return
	}
	for _, k := range []struct {
		key      string
		now, new *string
	}{
		{"core.port", &running.core.port, &cfg.core.port},
		{"core.socket_mode", &running.core.socketMode, &cfg.core.socketMode},
		{"spool.dir", &running.spool.dir, &cfg.spool.dir},
	} {
		if *k.now != *k.new && !o.dryRun {
			logs.notice(k.key+" has changed: that needs a restart, until then the old one stays", "old", *k.now, "new", *k.new)
		}
		*k.new = *k.now
	}
	d.reload(cfg, func() {
		logs.notice("the configuration was read again")
		logs.warn(cfg, listeners)
		tellSystemd("READY=1", "STATUS=the configuration was read again")
	})
}

// reload changes over to cfg, then calls then. Until no post is in flight and what became of all is on disk, 30 s at most
// where the disk works, none begins: so an attempt sees one configuration, and no message is in two lanes.
func (d *deliverer) reload(cfg *config, then func()) {
	d.ask(func() {
		d.reloads = func() {
			old := d.lanes
			d.cfg.Store(cfg)
			d.quota.setLimit(cfg.spool.maxBytes)
			d.lanes, d.due, d.held, d.firstTurn = map[destination]*lane{}, nil, nil, time.Now().Add(cfg.pace())
			d.rebuild(old)
			then()
		}
	})
}

// place is a record and the lane that it was in.
type place struct {
	ref ref
	was *lane
}

// rebuild makes lanes of what waits in those of the configuration before. Back-offs start anew; pauses stay, and so does
// since when a destination fails.
func (d *deliverer) rebuild(old map[destination]*lane) {
	lanes, paused := map[destination][]seqRef{}, map[credential]time.Time{}
	var places []place
	for to, was := range old {
		l := d.lane(to)
		l.turn, l.err, l.errSince = was.turn, was.err, was.errSince
		if was.turn.After(paused[to.credential]) {
			paused[to.credential] = was.turn
		}
		for _, r := range was.waiting {
			places = append(places, place{r, l})
		}
		for _, u := range was.urgent {
			to, _, _ := d.lookup(u.m.route)
			d.lane(to).urgent = append(d.lane(to).urgent, u)
		}
	}
	sort.Slice(places, func(i, j int) bool { return places[i].ref < places[j].ref })
	d.spool.each(false, func(at ref, r record) {
		i := sort.Search(len(places), func(i int) bool { return places[i].ref >= at })
		if i == len(places) || places[i].ref != at {
			return // accepted a moment ago: add comes next
		}
		to, _, _ := d.lookup(parseRoute(string(r.route)))
		d.quota.move(places[i].was.to, to, r.size())
		lanes[to] = append(lanes[to], seqRef{r.seq, at})
		places[i].was = nil
	})
	for _, p := range places {
		if p.was != nil { // it cannot be read: its lane finds out
			lanes[p.was.to] = append(lanes[p.was.to], seqRef{0, p.ref})
		}
	}
	d.fill(lanes)
	for to, l := range d.lanes {
		if old[to] == nil && paused[to.credential].After(l.turn) {
			l.turn = paused[to.credential] // a webhook's pause holds for its other channels, too
		}
		d.schedule(l)
	}
}
