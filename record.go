package main

// One message on disk is one line that an operator can grep:
//
//	P 9a0b3c4d 1234567 1763899200123 tag:error-s3/0 {"id":…,…}
//
// The status, P pending or D done; the CRC-32C of everything behind it and its blank; the sequence number; when it was accepted,
// in Unix milliseconds; the route; the message as compact JSON, which holds no raw newline. The status is outside the checksum, so that
// one byte, overwritten in place, marks the message done.

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"hash/crc32"
	"strconv"
	"strings"
)

const (
	pending = 'P'
	done    = 'D' // two bits from P; what is neither counts as pending

	crcAt  = 2  // bytes from the start of a record
	seqAt  = 11 //
	maxCut = 64 // joined records that are looked for in a damaged line
)

// record is a line of the spool. Its route and body are parts of the bytes it was parsed from.
type record struct {
	done  bool
	seq   uint64
	at    int64 // Unix ms
	route []byte
	body  []byte
}

func castagnoli(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// appendRecord appends a pending record and its newline to b.
func appendRecord(b []byte, seq uint64, at int64, route string, body []byte) []byte {
	start := len(b)
	b = append(b, "P ________ "...)
	b = strconv.AppendUint(b, seq, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, at, 10)
	b = append(b, ' ')
	b = append(b, route...)
	b = append(b, ' ')
	b = append(b, body...)
	sum := binary.BigEndian.AppendUint32(nil, castagnoli(b[start+seqAt:]))
	hex.Encode(b[start+crcAt:], sum)
	return append(b, '\n')
}

// parseRecord reads a line without its newline. ok is false for one that is damaged.
func parseRecord(line []byte) (r record, ok bool) {
	var sum [4]byte
	if len(line) <= seqAt || line[1] != ' ' || line[seqAt-1] != ' ' {
		return r, false
	}
	if _, err := hex.Decode(sum[:], line[crcAt:crcAt+8]); err != nil || binary.BigEndian.Uint32(sum[:]) != castagnoli(line[seqAt:]) {
		return r, false
	}
	fields := bytes.SplitN(line[seqAt:], []byte(" "), 4)
	if len(fields) < 4 {
		return r, false
	}
	seq, err := strconv.ParseUint(string(fields[0]), 10, 64)
	if err != nil {
		return r, false
	}
	at, err := strconv.ParseInt(string(fields[1]), 10, 64)
	return record{line[0] == done, seq, at, fields[2], fields[3]}, err == nil
}

// id returns the message's id without decoding the rest.
func (r record) id() string {
	const head = `{"id":"`
	if !bytes.HasPrefix(r.body, []byte(head)) {
		return ""
	}
	id, _, _ := bytes.Cut(r.body[len(head):], []byte(`"`))
	return string(id)
}

// size is what the message takes of max_bytes.
func (r record) size() int64 { return recordSize(len(r.route), len(r.body)) }

func recordSize(route, body int) int64 { return int64(40 + route + body) }

// message decodes the record.
func (r record) message() (*message, error) {
	m := &message{}
	if err := json.Unmarshal(r.body, m); err != nil {
		return nil, err
	}
	m.seq, m.queued, m.route, m.stored = r.seq, r.at, parseRoute(string(r.route)), r.size()
	return m, nil
}

// eachRecord calls f for every record of data, with its offset, and returns how many lines were damaged.
func eachRecord(data []byte, f func(offset int, r record)) (damaged int) {
	for start := 0; start < len(data); {
		end := bytes.IndexByte(data[start:], '\n')
		if end < 0 {
			end = len(data) - start
		}
		line := data[start : start+end]
		if r, ok := parseRecord(line); ok {
			f(start, r)
		} else {
			damaged++
			salvage(line, func(offset int, r record) { f(start+offset, r) })
		}
		start += end + 1
	}
	return damaged
}

// salvage finds the records in a damaged line: those whose newline was overwritten, and that follow such a one. Only
// what also is valid JSON counts, so that no text can pass for a record.
func salvage(line []byte, f func(offset int, r record)) {
	bounds := []int{0}
	for at := 1; at+seqAt < len(line) && len(bounds) < maxCut; at++ {
		if startsRecord(line[at:]) {
			bounds = append(bounds, at)
		}
	}
	bounds = append(bounds, len(line), len(line)+1) // the last one: with its newline, or with what stands in its place
	for i, start := range bounds[:len(bounds)-2] {
		for _, end := range bounds[i+1:] { // a text may hold what looks like the start of another
			if r, ok := parseRecord(line[start:max(start, end-1)]); ok && json.Valid(r.body) {
				f(start, r)
				break
			}
		}
	}
}

// startsRecord says whether b begins like a record: a status, a checksum, a number.
func startsRecord(b []byte) bool {
	return len(b) > seqAt && b[1] == ' ' && b[seqAt-1] == ' ' && '0' <= b[seqAt] && b[seqAt] <= '9' &&
		strings.Trim(string(b[crcAt:seqAt-1]), "0123456789abcdef") == ""
}
