/*
 * What is in flight in a queue, noted in memory that outlives the process that serves it. When that
 * process dies, wherever it stood, the next one opens the queue where the driver believes it to be
 * and is handed what was in flight before anything new: no request is lost, and none is returned
 * twice. What was begun may be begun again, so a device that is served so must bear that: reads and
 * writes of a disk do, as the driver leaves a buffer alone until it is returned.
 *
 * The argument. A process dies between two instructions; all stores before that point have been
 * made and none after it, and who comes next looks when it is gone (wait4). So only the order of
 * stores in the program counts, which is kept by compiler fences. Positions in the ring are
 * counted from the start of the queue, in ring entries (split: used elements; packed: descriptors),
 * and each step is one store:
 *
 *   pop      entry.taken = number of the pop, then entry.done = 0. Before that the head is
 *            not in flight: it lies in the ring, nobody acted on it, and it is popped again.
 *   put      entry.done = count once this one is published. A head with a `done` above `published`
 *            is in flight all the same: the driver cannot see it. It is done again.
 *   publish  publishing = count; the ring's own store (split: used idx; packed: the flags of the
 *            first descriptor), which the driver sees; published = count. Between the first and
 *            the last the ring says which of the two holds: an aligned store, made or not.
 *   unpop    entry.taken = 0.
 *
 * Where to go on follows: used = start + published; avail = used + what is in flight. In a packed
 * ring used descriptors overwrite those of chains that are still in flight, so their descriptors
 * are noted too; those of a split ring are the driver's until the chain is returned.
 *
 * Both the ring and the record are hostile: the ring is the guest's, and the record was written by
 * a process that may have been taken over. All is checked, descriptors as if they were popped.
 */
#ifndef DEVICES_VIRTIO_QUEUE_RECORD_H
#define DEVICES_VIRTIO_QUEUE_RECORD_H

#include "devices/virtio/queue.h"

struct queue_record;

/* Of a queue of up to `size` entries; a multiple of 64. */
size_t queue_record_bytes(unsigned size);

/* Zero entries, the positions of `setup`: before the queue is first opened with it. */
void queue_record_begin(struct queue_record *record, const struct queue_setup *setup);
/*
 * Owner, right after queue_open(): note in `record` from now on, and take up what it says is in
 * flight. -EPROTO: it, or the ring, says what cannot be; the queue is broken then.
 */
int queue_record_take_up(struct queue *q, struct queue_record *record) NEEDS_CHECK;
/* Owner: how many heads of an earlier owner queue_pop() has still to hand out. */
unsigned queue_replays_left(const struct queue *q);

#endif
