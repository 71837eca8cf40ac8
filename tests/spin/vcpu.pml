/*
 * vCPUs that are asked to run, park and stop, and the machine that holds, pauses, resets and ends
 * them: vmm/vcpu.c and vmm/vm_run.c. Each inline and process has the name of the function that it
 * stands for.
 *
 * Memory: a store goes into its thread's buffer and becomes visible later, in order, at a time that
 * the search chooses (TSO; what C11 allows beyond it, two stores of one thread seen in the other
 * order, is ruled out by the releases in the code). A fence waits until the buffer is empty. So do
 * the system calls futex_wait and futex_wake, whose kernel side has a full barrier. A kick's signal
 * does not end a futex_wait here, although it would: the protocol shall not lean on that.
 *
 * KVM_RUN: immediate_exit is looked at once, on entry; a signal that is pending inside ends it; one
 * that comes outside is used up by an empty handler. A guest's triple fault is first noted in the
 * vCPU, and a signal may end KVM_RUN before the note is reported.
 *
 * Asked: hold implies still (no guest code and no handler runs while main holds); a reset meets no
 * vCPU inside an exit; each life is reset for a wish of its own, once; every life runs; no missed
 * wake-up and no deadlock (every process comes to its end).
 *
 * -DMUTANT=n takes something out, and the search must then find a fault; see tests/spin/run.
 */
#ifndef MUTANT
#define MUTANT 0
#endif
#ifndef NV
#define NV 2	/* vCPUs */
#endif
#ifndef OPS
#define OPS 2	/* exits and crashes of all guests together */
#endif
#ifndef DEEDS
#define DEEDS 1	/* what main does unasked */
#endif

/* enum vcpu_want, enum vcpu_still, enum vm_state */
#define RUN 0
#define PARK 1
#define STOP 2
#define MOVES 0
#define STANDS 1
#define RUNNING 0
#define PAUSED 1
#define STOPPING 2

byte want[NV] = PARK, asked[NV], still[NV] = STANDS, life[NV];
bit imm[NV], sig[NV], midway[NV];


#ifdef ORDERED
/* Every store is seen at once: and what one side does to one word or
   another between two looks at the other side's is one step: cheaper, for more vCPUs. */
#define VCPU_STORE(i, word, v) word[i] = v
#define MAIN_STORE(word, i, v) word[i] = v
#define STEP atomic
#define VCPU_FENCE(i) true
#define MAIN_FENCE true
#else
#define want_ 0
#define asked_ 1
#define imm_ 2
#define still_ 3
#define midway_ 4
chan main_stores = [4] of { byte, byte, byte };
chan vcpu_stores[NV] = [4] of { byte, byte };
#define VCPU_STORE(i, word, v) vcpu_stores[i] ! word##_, v
#define MAIN_STORE(word, i, v) main_stores ! word##_, i, v
#define STEP
#define VCPU_FENCE(i) empty(vcpu_stores[i])
#define MAIN_FENCE empty(main_stores)

proctype main_buffer() {
	byte at, i, v;

end:	do
	:: d_step { main_stores ? at, i, v ->
		if
		:: at == want_ -> want[i] = v
		:: at == asked_ -> asked[i] = v
		:: at == imm_ -> imm[i] = v
		fi; at = 0; i = 0; v = 0 }
	od
}

proctype vcpu_buffer(byte i) {
	byte at, v;

end:	do
	:: d_step { vcpu_stores[i] ? at, v ->
		if
		:: at == imm_ -> imm[i] = v
		:: at == still_ -> still[i] = v
		:: at == midway_ -> midway[i] = v
		fi; at = 0; v = 0 }
	od
}
#endif

bit sleeps[NV];		/* vCPU i is in futex_wait(&asked) */
byte main_sleeps;	/* 1 + i: main is in futex_wait(&still) of vCPU i */

byte state = RUNNING, holds = 1, gone;
bit stillness[NV], done[NV];	/* loop_call(in_stillness) of vCPU i */
byte wishes;			/* in the inbox: 0 or 1; further ones are the same event */
byte reboots;			/* reboot() messages in main's loop */
bit reboot_posted;

/* Ghosts. */
bit held, inside[NV];	/* main holds; vCPU i has begun an exit and not ended it */
bit note[NV];
byte note_life[NV], wish_life, ran[NV] = 255, ops = OPS;

/* --- vcpu.c, the vCPU's side --- */

inline futex_wait_asked(i, value) {
	atomic { VCPU_FENCE(i) ->
		if
		:: asked[i] == value -> sleeps[i] = 1
		:: else
		fi }
	!sleeps[i]
}

inline stand(i) {
	STEP {
	VCPU_STORE(i, still, STANDS);
	mine = STANDS;
	d_step { VCPU_FENCE(i) ->
		if
		:: main_sleeps == i + 1 -> main_sleeps = 0
		:: else
		fi }
	}
}

inline wait_until_let_go(i) {
	do
	::	do
		:: count = asked[i];
			wanted = want[i];
			if
			:: wanted != PARK -> break
			:: else ->
				if
				:: mine != STANDS -> stand(i)
				:: else
				fi;
#if MUTANT == 7
				/* sleeps on a count read after `want` */
				count = asked[i];
#endif
				futex_wait_asked(i, count)
			fi
		od;
		STEP { VCPU_STORE(i, still, MOVES); mine = MOVES };
#if MUTANT != 1
		VCPU_FENCE(i);	/* atomic_thread_fence */
#endif
#if MUTANT == 2
		break
#else
		if
		:: want[i] == wanted -> break
		:: else
		fi
#endif
	od
}

inline rest(i) {
#if MUTANT == 5
	stand(i);
	my_life = life[i];
#else
	my_life = life[i];
	stand(i);
#endif
	do
	:: count = asked[i];
		if
		:: want[i] == STOP -> break
		:: else
		fi;
		if
		:: life[i] != my_life -> break
		:: else
		fi;
#if MUTANT == 6
		/* a futex on `want`: a hold that comes and goes looks like none */
		atomic { VCPU_FENCE(i) ->
			if
			:: want[i] == RUN -> sleeps[i] = 1
			:: else
			fi };
		!sleeps[i]
#else
		futex_wait_asked(i, count)
#endif
	od;
	count = 0;
	my_life = 0
}

inline wish(i) {
	d_step {
		if
		:: wishes == 0 -> wishes = 1; wish_life = life[i]
		:: else
		fi }
}

/* vm_stop_world(): of a vCPU that moved a BAR. */
inline vm_stop_world(i) {
	VCPU_STORE(i, midway, 1);
	stand(i);
	stillness[i] = 1;
	d_step { done[i] -> done[i] = 0 }
	wait_until_let_go(i);
	VCPU_STORE(i, midway, 0);
	assert(!held);
	inside[i] = 0
}

proctype vcpu(byte i) {
	byte mine = STANDS, wanted, count, my_life;
	bit crashed;

vcpu_main:
	/* obey() */
#if MUTANT == 4
	wait_until_let_go(i);
	VCPU_STORE(i, imm, 0);
#else
	VCPU_STORE(i, imm, 0);
	wait_until_let_go(i);
#endif
	if
	:: wanted == STOP -> goto out
	:: else
	fi;
	count = 0;
	ran[i] = life[i];
	crashed = 0;
	/* run() */
	do
	:: d_step { assert(!held);
		if
		:: sig[i] -> sig[i] = 0	/* on_kick(), before the system call */
		:: else
		fi }
		if
		:: imm[i] -> break	/* EINTR */
		:: else
		fi;
		/* In the guest, until it exits or is kicked; without either it halts for ever. */
		if
		:: d_step { sig[i] -> assert(!held); sig[i] = 0 }
			break
		:: d_step { note[i] -> note[i] = 0; assert(!held); assert(note_life[i] == life[i]) }
			wish(i);	/* VM_EVENT_TRIPLE_FAULT */
			crashed = 1;
			break
		:: d_step { !note[i] && ops > 0 -> assert(!held); ops--; note[i] = 1; note_life[i] = life[i] }
			if
			:: d_step { sig[i] -> sig[i] = 0 }
				break
			:: d_step { note[i] = 0; assert(!held) }
				wish(i);
				crashed = 1;
				break
			fi
		:: d_step { !note[i] && ops > 0 -> assert(!held); ops-- }
			wish(i)		/* handle_exit(): the reset register; goes on into KVM_RUN */
		:: d_step { !note[i] && ops > 0 -> assert(!held); ops--; inside[i] = 1 }
			vm_stop_world(i)
		fi
	od;
	if
	:: crashed -> rest(i)
	:: else
	fi;
	goto vcpu_main;
out:
	stand(i);
	gone++	/* VM_EVENT_VCPU_GONE */
}

/* --- vcpu.c, main's side --- */

inline vcpu_ask(i, what) {
	STEP {
	MAIN_STORE(want, i, what);
#if MUTANT != 8
	asks[i]++;
	MAIN_STORE(asked, i, asks[i]);
#endif
#if MUTANT != 3
	MAIN_FENCE;	/* atomic_thread_fence, and the barrier in futex_wake */
#endif
	sleeps[i] = 0;
	if
	:: what != RUN ->
#if MUTANT == 9
		sig[i] = 1;
		MAIN_STORE(imm, i, 1)
#else
		MAIN_STORE(imm, i, 1);
#if MUTANT != 3
		MAIN_FENCE;
#endif
		sig[i] = 1	/* pthread_kill */
#endif
	:: else
	fi
	}
}

inline vcpu_wait_still(i) {
	do
	:: still[i] != MOVES -> break
	:: else ->
		atomic {
			if
			:: still[i] == MOVES -> main_sleeps = i + 1
			:: else
			fi }
		main_sleeps == 0
	od
}

/* --- vm_run.c --- */

inline ask_all(what) {
	STEP {
		n = 0;
		do
		:: n < NV -> vcpu_ask(n, what); n++
		:: else -> n = 0; break
		od
	}
}

inline vm_hold() {
	holds++;
	if
	:: holds > 1
	:: else ->
#if MUTANT == 15
		/* those that stop are not asked for less */
		if
		:: state != STOPPING -> ask_all(PARK)
		:: else
		fi;
#else
		ask_all(PARK);
#endif
		n = 0;
		do
		:: n < NV -> vcpu_wait_still(n); n++
		:: else -> n = 0; break
		od
	fi;
	held = 1
}

inline vm_release() {
	if
	:: holds > 0 -> holds--
	:: else
	fi;
	if
	:: holds > 0
	:: else ->
		held = 0;
		if
		:: state == RUNNING -> ask_all(RUN)
		:: state == STOPPING -> ask_all(STOP)
		:: else
		fi
	fi
}

inline vm_stop() {
	if
	:: state != STOPPING -> state = STOPPING; held = 0; ask_all(STOP)
	:: else
	fi
}

inline any_midway() {
	any = 0;
	n = 0;
	do
#if MUTANT == 10
	:: n < NV -> n++
#elif MUTANT == 14
	/* asks `still`, which says for a moment that the vCPU moves although it does not */
	:: n < NV -> any = any || (midway[n] && still[n] == STANDS); n++
#else
	:: n < NV -> any = any || midway[n]; n++
#endif
	:: else -> n = 0; break
	od
}

inline vm_reset_machine() {
	n = 0;
	do
	:: n < NV ->
		d_step { assert(!inside[n]);
			life[n]++;
#if MUTANT != 11
			note[n] = 0;
#endif
		}
		n++
	:: else -> n = 0; break
	od
}

inline reboot() {
	if
	:: state != RUNNING
	:: else ->
		vm_hold();
		any_midway();
		if
		:: any -> vm_release();
			reboots++;
			patience = (patience -> patience - 1 : 0)
		:: else ->
			/* Of the life that ends, and of this one only. */
			assert(wish_life == life[0]);
#if MUTANT != 13
			wishes = 0;	/* forget_wishes() */
#endif
			reboot_posted = 0;
			vm_reset_machine();
			if
			:: skip
			:: fail -> vm_stop()	/* the images cannot be read again */
			fi;
			vm_release()
		fi
	fi
}

#if NV > 1
#define NOBODY_INSIDE (!inside[0] && !inside[1])
#define ALL_RAN (!stillness[0] && !stillness[1] && ran[0] == life[0] && ran[1] == life[1])
#else
#define NOBODY_INSIDE (!inside[0])
#define ALL_RAN (!stillness[0] && ran[0] == life[0])
#endif

proctype main_loop() {
	byte n, i, deeds = DEEDS;
	/* Later a message comes round again only when something has moved. */
	byte patience = 1, asks[NV];
	bit any, early, fail;

	if
	:: early = 1
	:: fail = 1
	:: skip
	fi;
	vm_release();	/* of vm_start() */
	do
	:: d_step { stillness[0] -> stillness[0] = 0; i = 0 }
		vm_hold(); vm_release(); done[0] = 1
#if NV > 1
	:: d_step { stillness[1] -> stillness[1] = 0; i = 1 }
		vm_hold(); vm_release(); done[1] = 1
#endif
	:: d_step { wishes > 0 -> wishes = 0 }
		if
#if MUTANT != 12
		:: reboot_posted	/* reset(): one is under way already */
#endif
		:: else -> reboot_posted = 1; reboot()
		fi
	:: d_step { reboots > 0 && (patience || NOBODY_INSIDE) -> reboots-- }
		reboot()
	:: deeds > 0 && state == RUNNING -> deeds--;
		vm_hold(); vm_release()
	:: deeds > 0 && state == RUNNING -> deeds--;
		/* vm_pause() */
		vm_hold();
		any_midway();
		if
		:: any -> vm_release()
		:: else -> state = PAUSED
		fi
	:: state == PAUSED ->
		/* vm_resume() */
		state = RUNNING;
		vm_release()
	:: state != STOPPING && early -> vm_stop()
	/* Not early: all that was wished was done, and each life ran. */
	:: state == RUNNING && !wishes && !reboots && !deeds && ALL_RAN -> vm_stop()
	:: state == STOPPING && gone == NV -> break
	od
	/* What is left in the inbox and the loop dies with them. */
}

init {
	atomic {
		byte k;
#ifndef ORDERED
		run main_buffer();
#endif
		run main_loop();
		for (k : 0 .. NV - 1) {
#ifndef ORDERED
			run vcpu_buffer(k);
#endif
			run vcpu(k)
		}
	}
}
