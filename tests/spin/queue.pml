/*
 * One queue: a driver that adds requests and sleeps until they are done, the device's worker, and a
 * front that stops and starts it again under both (devices/virtio/front.c, back_worker.c, queue.c,
 * queue_split.c with EVENT_IDX, vmm/loop.c for worker_call()).
 *
 * Memory as in vcpu.pml: stores of the driver and of the worker wait in buffers; fences wait until
 * the buffer is empty, and so do writes to eventfds and messages, which are system calls and locks.
 *
 * The host side (`host`) ends one request at a time and rings the worker. The front stops the queue
 * for a pause (indices kept) or because the driver takes it back and enables it anew.
 *
 * Asked: every request comes back once (popped == returned + in flight, and at a stop nothing is in
 * flight); the worker never serves a queue that is closed; no lost kick, no lost interrupt, no
 * deadlock: the driver gets all its answers and everyone comes to an end.
 */
#ifndef MUTANT
#define MUTANT 0
#endif
#ifndef REQUESTS
#define REQUESTS 3
#endif
#ifndef STOPS
#define STOPS 1
#endif
#define TURN 1		/* requests that handle() takes in one turn */

byte avail_idx, avail_event, used_idx, used_event;

#define avail_idx_ 0
#define avail_event_ 1
#define used_idx_ 2
#define used_event_ 3
chan driver_stores = [3] of { byte, byte };
chan worker_stores = [3] of { byte, byte };

bit kick, call, host_rang;	/* eventfds */
byte in_flight, host_done;	/* at the host; ended there and not collected */
bit stop_msg, start_msg, done;	/* worker_call() of the front */
byte stops = STOPS;
bit ended, all_done;

/* Ghosts. */
byte popped, returned;
bit open;

proctype buffers() {
	byte at, v;

end:	do
	:: d_step { driver_stores ? at, v ->
		if
		:: at == avail_idx_ -> avail_idx = v
		:: at == used_event_ -> used_event = v
		fi; at = 0; v = 0 }
	:: d_step { worker_stores ? at, v ->
		if
		:: at == avail_event_ -> avail_event = v
		:: at == used_idx_ -> used_idx = v
		fi; at = 0; v = 0 }
	od
}

/* ring_need_event(): has the index passed `event` on its way from `old` to `new`? (virtio 1.2 §2.7.10) */
#define need_event(event, new, old) (event >= old && event < new)

/* --- the driver --- */

proctype driver() {
	byte added, seen, batch;

	do
	:: added < REQUESTS && added - seen < 2 ->
		if
		:: batch = 1
		:: added + 2 <= REQUESTS && added == seen -> batch = 2
		fi;
		driver_stores ! avail_idx_, added + batch;
#if MUTANT != 1
		empty(driver_stores);	/* its fence */
#endif
		if
		:: need_event(avail_event, added + batch, added) ->
			atomic { empty(driver_stores) -> kick = 1 }
		:: else
		fi;
		added = added + batch;
		batch = 0
	:: seen < added ->
		/* Waits for an interrupt: says so, looks once more, sleeps. */
		driver_stores ! used_event_, seen;
		empty(driver_stores);
		if
		:: used_idx == seen ->
			d_step { call -> call = 0 }
		:: else
		fi;
		seen = used_idx;
		assert(seen <= added)
	:: seen == REQUESTS -> break
	od;
	all_done = 1
}

/* --- the host side of the device --- */

proctype host() {
end:	do
	:: atomic { in_flight > host_done -> host_done++; host_rang = 1 }
	od
}

/* --- queue.c, queue_split.c --- */

inline queue_flush() {
	if
	:: pending == 0
	:: else ->
		worker_stores ! used_idx_, next_used;
#if MUTANT != 2
		empty(worker_stores);	/* ring_fence() in split_publish() */
#endif
		if
		:: need_event(used_event, next_used, next_used - pending) ->
			atomic { empty(worker_stores) -> call = 1 }
		:: else
		fi;
		pending = 0
	fi
}

/* queue_enable_kick(): `more` when chains came in between */
inline queue_enable_kick() {
	worker_stores ! avail_event_, next_avail;
#if MUTANT != 3
	empty(worker_stores);	/* ring_fence() */
#endif
#if MUTANT == 4
	more = 0
#else
	more = avail_idx != next_avail
#endif
}

/* What the host has ended goes back to the driver; blk_on_done(), queue_push(). */
inline collect() {
	d_step {
		do
		:: host_done > 0 ->
			assert(open);
			host_done--;
			in_flight--;
			next_used++;
			pending++;
			returned++
		:: else -> break
		od;
		assert(popped == returned + in_flight)
	}
}

/* type->handle(): so many at most; 1: there is more to do. With -DATONCE they are done at once. */
inline handle() {
	took = 0;
	left = 0;
	do
	:: took == TURN -> left = avail_idx != next_avail; break
	:: took < TURN && avail_idx != next_avail ->
		d_step { assert(open); next_avail++; popped++; took++;
#ifdef ATONCE
			next_used++; pending++; returned++
#else
			in_flight++
#endif
		}
	:: took < TURN && avail_idx == next_avail -> break
	od
}

/* --- back_worker.c --- */

inline turn() {
	again = 0;
	looks = 0;
	do
	:: looks < 2 ->
		before = popped;
		handle();
		queue_flush();
		if
		:: left -> again = 1; break
		:: else
		fi;
		queue_enable_kick();
		if
		:: !more -> break
		:: more && popped != before -> again = 1; break
		:: more && popped == before -> looks++
		fi
	:: else -> break
	od
}

inline serve() {
	turn();
	if
	:: again ->
#if MUTANT != 5
		kick = 1	/* ring_self() */
#else
		skip
#endif
	:: else
	fi;
	again = 0; looks = 0; before = 0; more = 0; left = 0; took = 0
}

inline stop_on_worker() {
	/* blk_queue_stop(): drain */
#if MUTANT != 6
	do
	:: in_flight == 0 -> break
	:: else -> d_step { host_rang -> host_rang = 0 }
		collect()
	od;
#endif
	queue_flush();
	d_step { open = 0; served = 0; assert(in_flight == 0) }
}

proctype worker() {
	byte next_avail, next_used, pending, before, took, looks;
	bit served, more, left, again;

	do
	:: d_step { stop_msg -> stop_msg = 0 }
		stop_on_worker();
		atomic { empty(worker_stores) -> done = 1 }
	:: d_step { start_msg -> start_msg = 0; open = 1; served = 1 }
#if MUTANT != 7
		serve();	/* chains may lie there already */
#endif
		atomic { empty(worker_stores) -> done = 1 }
#if MUTANT == 8
	/* a kick eventfd that is still watched after the stop */
	:: d_step { kick -> kick = 0 }
#else
	:: d_step { served && kick -> kick = 0 }
#endif
		serve()
	:: d_step { served && host_rang -> host_rang = 0 }
		collect();
		queue_flush()	/* blk_on_batch_done() */
	:: ended && !stop_msg && !start_msg -> break
	od
}

/* --- front.c: main's pause and resume, or another vCPU's disable and enable --- */

proctype front() {
	/* DRIVER_OK */
	start_msg = 1;
	d_step { done -> done = 0 }
	do
	:: stops > 0 ->
		stops--;
		stop_msg = 1;
		d_step { done -> done = 0 }
		assert(!open && popped == returned);
		if
		:: skip
		:: kick = 0	/* a machine that was saved and loaded has new eventfds */
		fi;
		start_msg = 1;
		d_step { done -> done = 0 }
	:: stops == 0 && all_done -> break
	od;
	stop_msg = 1;
	d_step { done -> done = 0 }
	assert(popped == returned && popped == REQUESTS);
	ended = 1
}

init {
	atomic {
		run buffers();
		run driver();
		run host();
		run worker();
		run front()
	}
}
