/*
 * A worker's loop and those who give it work: vmm/loop.c (loop_call(), loop_post(), drain_messages(),
 * loop_run(), loop_stop()) and vmm/worker.c (worker_call(), worker_stop()). Two callers, whose
 * messages lie on their stacks, a poster, and main, which stops the worker when they are through
 * with their calls; the poster may still be at it just before.
 *
 * Messages are under a mutex and sleeping is under the kernel's locks, so stores need no buffers.
 *
 * Asked: what was posted before the stop is run, once; a message is not touched after its caller
 * was told that it is done (the stack is somebody else's then); no missed wake-up, no deadlock.
 */
#ifndef MUTANT
#define MUTANT 0
#endif
#define CALLERS 2
#define CALLS 2
#define POSTER CALLERS
#define NONE 255
#define ALL 3

byte head = NONE, tail = NONE, next[ALL];	/* lock */
bit lock, wake, stop, joined;
bit done[ALL], sleeps[ALL];
byte calls_left = CALLERS;

/* Ghosts. */
bit alive[ALL];		/* the message's memory is the message's */
byte ran[ALL], posted[ALL];

inline post(i) {
	atomic { !lock -> lock = 1 }
	next[i] = NONE;
	if
	:: head == NONE -> head = i
	:: else -> next[tail] = i
	fi;
	tail = i;
	posted[i]++;
	lock = 0;
	wake = 1
}

proctype caller(byte i) {
	byte n = CALLS;

	do
	:: n > 0 ->
		n--;
		done[i] = 0;
		alive[i] = 1;
		post(i);
		do
		:: done[i] -> break
		:: else ->
			/* futex_wait(&done, 0) */
			atomic {
				if
				:: !done[i] -> sleeps[i] = 1
				:: else
				fi }
			!sleeps[i]
		od;
		alive[i] = 0;	/* loop_call() returns */
		assert(ran[i] == posted[i])
	:: else -> break
	od;
	calls_left--
}

proctype poster() {
	alive[POSTER] = 1;
	post(POSTER)
}

inline drain_messages() {
	atomic { !lock -> lock = 1 }
	m = head;
	head = NONE;
	tail = NONE;
	lock = 0;
	do
	:: m == NONE -> break
	:: else ->
#if MUTANT != 1
		d_step { assert(alive[m]); then = next[m] }
#endif
		d_step { assert(alive[m]); ran[m]++ }
		if
		:: m == POSTER -> alive[m] = 0	/* free() */
		:: else ->
#if MUTANT != 2
			done[m] = 1;
#endif
			sleeps[m] = 0;
#if MUTANT == 2
			done[m] = 1;
#endif
		fi;
#if MUTANT == 1
		d_step { assert(alive[m]); then = next[m] }
#endif
		m = then;
		then = NONE
	od
}

proctype worker() {
	byte m, then = NONE;

	do
	:: stop -> break
	:: else ->
		d_step { wake -> wake = 0 }
		drain_messages()
	od;
#if MUTANT != 3
	drain_messages();
#endif
	joined = 1
}

proctype main_thread() {
	byte n;

	/* vCPUs are gone, devices paused: nobody calls any more. */
#if MUTANT != 4
	calls_left == 0;
#endif
	/* What is posted from here on may be lost; what was before may not. */
	n = posted[POSTER];
#if MUTANT == 5
	wake = 1;
	stop = 1;
#else
	stop = 1;
	wake = 1;
#endif
	joined;
	assert(ran[POSTER] >= n && ran[POSTER] <= 1)
}

init {
	atomic {
		run caller(0);
		run caller(1);
		run poster();
		run worker();
		run main_thread()
	}
}
