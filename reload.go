package main

// SIGHUP: the configuration is read again, and what waits moves to where it leads then.

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// reloadRefused is what the service manager shows after a reload that met an error.
const reloadRefused = "the last reload was refused, the configuration before it stays: see the log"

// reloadAt reads the configuration again at each signal: all of it changes over or, after an error, nothing. It runs
// beside the rest of the server: a file that cannot be opened at once, such as a pipe, must not keep that from its
// stop.
func (o options) reloadAt(signals <-chan os.Signal, s *server, logs *logs) {
	for range signals {
		tellSystemd("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", monotonicTime().Microseconds()))
		running, status := s.cfg(), "the configuration was read again"
		cfg, err := loadConfig(o)
		if err == nil {
			err = logs.switchTo(cfg)
		}
		if err == nil {
			o.keepFixed(logs, "core.port", running.core.port, &cfg.core.port)
			o.keepFixed(logs, "core.socket_mode", running.core.socketMode, &cfg.core.socketMode)
			o.keepFixed(logs, "spool.dir", running.spool.dir, &cfg.spool.dir)
			err = s.reload(cfg, func(route, counts) {})
		}
		s.stats.locked(func() { s.stats.ReloadRefused = err != nil })
		if err == nil {
			logs.notice(status)
			logs.warn(cfg)
		} else {
			status = reloadRefused
			logs.switchTo(running) // logrotate does not wait for a mended configuration
			for line := range strings.Lines(err.Error()) {
				logs.log.Error("the configuration is not read again: the old one stays", "err", strings.TrimSpace(line))
			}
		}
		tellSystemd("READY=1", "STATUS="+status)
	}
}

// keepFixed puts the old value of a key that cannot change while the server runs in the place of what it is now.
func (o options) keepFixed(logs *logs, key, old string, now *string) {
	if *now != old && !o.dryRun {
		logs.notice(key+" has changed: that needs a restart, until then the old one stays", "old", old, "new", *now)
	}
	*now = old
}

// reload changes over to cfg, from none at the start, and has count note each message. Delivery pauses until no post
// is in flight, no message is half stored, and what became of all is on disk: 30 s at most where the disk works. So a
// turn sees one configuration, and no message is in two lanes. After an error nothing has changed.
func (d *deliverer) reload(cfg *config, count func(route, counts)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.resting++
	d.wait(func() bool { return d.posting[0] == 0 })
	d.reloading = true
	d.wait(func() bool { return d.stores == 0 })
	err := d.rebuild(cfg, count)
	d.reloading = false
	d.resting--
	d.changed.Broadcast()
	d.begin()
	return err
}

// rebuild fills the lanes anew, with what the spool holds and as cfg says. Back-offs start anew; pauses stay, and so
// does since when a destination fails.
func (d *deliverer) rebuild(cfg *config, count func(route, counts)) error {
	for _, t := range cfg.tags { // they are shown in this order, also while nothing is counted for them
		d.stats.count(route{tag: t.name, index: slices.Index(cfg.byTag[t.name], t)}, counts{})
	}
	waiting, read, urgent := map[route][]waiter{}, []waiter(nil), []*turn(nil)
	err := d.spool.all(false, func() bool { return false }, func(_ found, l line, state string) {
		r, w, dead := parseRoute(string(l.route)), newWaiter(l.seq, l.size()), state == "dead"
		count(r, counts{FoundAtStart: 1, Waiting: int64(asInt(!dead)), Dead: int64(asInt(dead))})
		if dead {
			return
		}
		waiting[r] = append(waiting[r], w)
		if len(d.lanes) > 0 { // not at the start
			read = append(read, w)
		}
	})
	if err != nil {
		return err
	}
	slices.Sort(read)
	d.config.Store(cfg)
	d.spool.history.Store(cfg.spool.historyBytes)
	d.ring, d.bytes, d.urgent, d.firstPost = nil, 0, 0, time.Now().Add(cfg.pace())
	for _, l := range d.lanes {
		l.waiting = slices.DeleteFunc(l.waiting, func(w waiter) bool {
			_, ok := slices.BinarySearch(read, w)
			return ok // else it is damaged, and its lane finds out
		})
		l.account.lanesUntil = latest(l.account.lanesUntil, l.until) // a webhook pauses in all its channels
		urgent = append(urgent, l.urgent...)
		l.urgent, l.bytes, l.head, l.awake = nil, 0, head{}, false
		l.account.due, l.account.urgent, l.account.inRing = [4][]*lane{}, 0, false
	}
	for r, found := range waiting {
		l := d.lane(r)
		l.waiting = append(l.waiting, found...)
	}
	for _, a := range d.accounts {
		if a.lanesUntil = (time.Time{}); !a.limited {
			a.until = time.Time{}
		}
	}
	for _, t := range urgent {
		d.addUrgent(t)
	}
	for _, l := range d.lanes {
		slices.Sort(l.waiting)
		for _, w := range l.waiting {
			d.hold(l, w.size())
		}
		d.schedule(l)
	}
	return nil
}
