/*
 * A device in a process of its own: devices/virtio/back_process.c (call(), on_notice()),
 * back_process_life.c (on_bell(), call_start(), call_stop(), resume()), vmm/process.c (one_life(),
 * obey()), queue_record.c (put, publish, settle()) and blk_error.c (hold(), blk_retry()).
 *
 * N requests lie in a ring; a caller starts the queue, stops and starts it in the middle (MIDDLE),
 * and stops it in the end; main's loop pauses the machine when something is held, and lets it go on
 * when the disk is mended (BROKEN); the kernel does what it was asked some time, whoever lives; the
 * keeper; and one life after the other, each killed (KILLS) or stopped (HANGS) at any statement.
 *
 * A life's stores are seen in their order: who comes next looks when it is gone.
 *
 * Asked: each request comes back, once, and nobody touches its buffer afterwards; a queue that was
 * stopped is still, until it is started; a call is carried out before it is answered; what is held
 * is tried again; nobody waits for ever.
 */
#ifndef MUTANT
#define MUTANT 0
#endif
#define N 2
#ifndef KILLS
#define KILLS 1
#endif
#ifndef HANGS
#define HANGS 0
#endif
/* The disk fails until somebody mends it; the queue is stopped in the middle and started again. */
#ifndef BROKEN
#define BROKEN 0
#endif
#ifndef MIDDLE
#define MIDDLE 1
#endif
#define START 1
#define STOP 2
#define FREE 0
#define BEGUN 1
#define HELD 2
#define DONE_WELL 1
#define FAILED 2

/* the desk */
byte kind, asked, answered, setup_at, stopped_at;
bit bell, notice, timer;
byte held, retries;
bit running;
/* the record of the queue, and the queue */
byte start_at, published, publishing;
bit taken[N];
byte done[N];
byte avail = N, used_idx;
bit used[N];

/* the kernel: what the life asked for, and what earlier ones did */
bit asked_for[N], orphaned[N];
byte result[N];
bit broken;

/* processes */
bit alive, killed, hung, finish, paused;
byte kills = KILLS, hangs = HANGS;

/* ghosts */
bit still = 1;
byte carried_out;

inline in_flight(i, ret) {
	ret = taken[i] && (!done[i] || done[i] > published)
}

/* --- a life --- */

inline begin(i) {
	d_step {
		assert(!still);
		st[i] = BEGUN;
		asked_for[i] = 1
	}
}

/* queue_push(), queue_flush() */
inline give_back(i) {
	done[i] = published + 1;
	publishing = published + 1;
	d_step { assert(!used[i] && !still); used[i] = 1; used_idx++ }
	published = publishing;
	st[i] = FREE
}

inline hold(i) {
#if MUTANT == 7
	notice = 1;
	d_step { st[i] = HELD; held++ }
#else
	d_step { st[i] = HELD; held++ };
	notice = 1
#endif
}

/* What the kernel has done. `hold_it` 0: the queue stops, and the guest is told. */
inline collect(i, hold_it) {
	if
	:: atomic { result[i] == FAILED && hold_it -> result[i] = 0 }; hold(i)
	:: atomic { else -> result[i] = 0 }; give_back(i)
	fi
}

/* A queue that was started is served at once, as far as it goes. */
inline serve() {
	if
	:: next < avail -> taken[next] = 1; done[next] = 0; begin(next); next++
	:: skip
	fi;
	if
	:: result[0] -> collect(0, 1)
	:: result[1] -> collect(1, 1)
	:: skip
	fi
}

/* queue_record_take_up(), and what it says is in flight is begun again. */
inline take_up() {
#if MUTANT != 5
	if
	:: publishing != published && used_idx == start_at + publishing -> published = publishing
	:: else
	fi;
#endif
	publishing = published;
	on = 1;
#if MUTANT != 10
	retried = retries;
#endif
	next = start_at + published;
	i = 0;
	do
	:: i < N ->
		d_step {
			in_flight(i, flag);
			if
			:: flag -> done[i] = 0; next++; assert(!still); st[i] = BEGUN; asked_for[i] = 1
			:: else
			fi;
			i++
		}
	:: else -> break
	od;
	flag = 0;
	i = 0;
	serve()
}

inline call_start() {
	if
#if MUTANT != 6
	:: running
#endif
	:: else ->
		start_at = setup_at;
		d_step { published = 0; publishing = 0; taken[0] = 0; taken[1] = 0; done[0] = 0; done[1] = 0 }
		still = 0;
#if MUTANT != 2
		running = 1;
#endif
		take_up();
#if MUTANT == 2
		/* The next life would not know of what is served already. */
		running = 1;
#endif
	fi
}

inline call_stop() {
	if
	:: running ->
		i = 0;
		do
		:: i < N ->
			if
			:: atomic { st[i] == HELD -> held--; st[i] = BEGUN; asked_for[i] = 1 }
			:: else
			fi;
#if MUTANT != 9
			if
			:: st[i] == BEGUN -> (result[i]); collect(i, 0)
			:: else
			fi;
#endif
			i++
		:: else -> break
		od;
		i = 0;
		on = 0;
		stopped_at = start_at + published;
		running = 0
	:: else
	fi
}

inline on_bell() {
	if
	:: asked != answered ->
		number = asked;
#if MUTANT == 3
		answered = number;
#endif
		if
		:: kind == START -> call_start()
		:: kind == STOP -> call_stop()
		fi;
		carried_out = number;
		answered = number;
		number = 0
	:: else
	fi
}

inline retry_if_asked() {
	if
	:: retried != retries ->
		retried = retries;
		i = 0;
		do
		:: i < N ->
			if
			:: atomic { st[i] == HELD -> held--; st[i] = BEGUN; asked_for[i] = 1 }
			:: else
			fi;
			i++
		:: else -> break
		od;
		i = 0
	:: else
	fi
}

proctype life() provided (!hung) {
	byte st[N], i, next, number, retried;
	bit on, flag;

	{
		held = 0;
		if
		:: running -> take_up()
		:: else
		fi;
#if MUTANT == 10
		retried = retries;
#endif
#if MUTANT != 4
		on_bell();
#endif
end_of_life:	do
		:: atomic { bell -> bell = 0 }; on_bell()
		:: atomic { on && next < avail -> taken[next] = 1 }; done[next] = 0; begin(next); next++
		:: on && result[0] -> collect(0, 1)
		:: on && result[1] -> collect(1, 1)
		:: atomic { timer -> timer = 0 }; retry_if_asked()
		od
	} unless {
		killed
	};
	d_step {
		/* io_uring goes on without us. */
		orphaned[0] = orphaned[0] || asked_for[0];
		orphaned[1] = orphaned[1] || asked_for[1];
		asked_for[0] = 0;
		asked_for[1] = 0;
		result[0] = 0;
		result[1] = 0;
		killed = 0;
		alive = 0
	}
}

/* --- around it --- */

proctype kernel(byte i) {
end:	do
	:: atomic { asked_for[i] && !result[i] ->
		assert(!used[i] && !still);
		asked_for[i] = 0;
		result[i] = (broken -> FAILED : DONE_WELL) }
	:: atomic { orphaned[i] -> assert(!used[i] && !still); orphaned[i] = 0 }
	od
}

proctype keeper() {
	do
	:: finish -> break
	:: else ->
		alive = 1;
		run life();
		if
		:: !alive
		:: finish -> atomic { hung = 0; killed = 1 }; !alive
		fi;
#if MUTANT != 1
		/* the tomb */
		!orphaned[0] && !orphaned[1]
#endif
	od
}

/* Kills, stops, continues; or does not. */
proctype fate() {
	do
	:: atomic { kills && alive && !killed -> kills--; hung = 0; killed = 1 }
	:: atomic { hangs && alive && !killed && !hung -> hangs--; hung = 1 }
	:: hung -> hung = 0
	:: finish -> break
	od
}

inline call(what) {
	kind = what;
	asked++;
	bell = 1;
	do
	:: answered == asked -> break
	/* Out of patience: the keeper kills it. */
	:: atomic { hung -> hung = 0; killed = 1 }
	od;
	assert(carried_out == asked)
}

inline stop_queue() {
	call(STOP);
	d_step {
		assert(!asked_for[0] && !asked_for[1] && !orphaned[0] && !orphaned[1]);
		assert(stopped_at == used_idx);
		still = 1
	};
	setup_at = stopped_at
}

proctype caller() {
	call(START);
	if
	:: MIDDLE -> stop_queue(); call(START)
	:: else
	fi;
	used[0] && used[1];
	stop_queue();
	finish = 1
}

proctype main_loop() {
	do
	:: notice ->
		notice = 0;
		if
		:: held && !paused -> paused = 1
		:: else
		fi
	/* Somebody mended the disk, and SIGUSR2; by the same thread, so no notice is taken meanwhile. */
	:: paused ->
		broken = 0;
#if MUTANT == 8
		timer = 1;
		retries++;
#else
		retries++;
		timer = 1;
#endif
		paused = 0
	:: finish -> break
	od
}

init {
	atomic {
		broken = BROKEN;
		run kernel(0);
		run kernel(1);
		run keeper();
		run fate();
		run caller();
		run main_loop()
	}
}
