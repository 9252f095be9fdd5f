package redis

import (
	"context"
	"fmt"

	"github.com/redis/rueidis"
)

// probes is how many places of a cluster are looked at: a node that has fewer slots than one of so many parts may be missed.
const probes = 16

// Probe fails unless every part of the store can be written. It changes no counter.
func (s *Store) Probe(ctx context.Context) error {
	n := 1
	if s.spread {
		n = probes
	}
	commands := make(rueidis.Commands, n)
	for i := range commands {
		key := fmt.Sprintf("%s%s:probe:{%s}", s.prefix, layout, tagIn(i, n))
		commands[i] = s.client.B().Set().Key(key).Value("1").PxMilliseconds(patience.Milliseconds()).Build()
	}
	for _, answer := range s.client.DoMulti(ctx, commands...) {
		if err := answer.Error(); err != nil {
			return fmt.Errorf("probing Redis: %w", err)
		}
	}
	return nil
}

// slots is how many a cluster has.
const slots = 1 << 14

// tagIn is a tag whose slot is in part i of n.
func tagIn(i, n int) string {
	for tag := 0; ; tag++ {
		if text := fmt.Sprint(tag); int(slotOf(text))*n/slots == i {
			return text
		}
	}
}

// slotOf is the slot of a cluster in which keys with the tag are: CRC-16/XMODEM, as the specification of Redis Cluster has it.
func slotOf(tag string) uint16 {
	var crc uint16
	for _, b := range []byte(tag) {
		crc ^= uint16(b) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc % slots
}
