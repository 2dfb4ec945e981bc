/* Keeps signal handlers and cancellation out while a lock is held. */
#include "shim.h"

void guard_enter(struct guard *guard)
{
    sigset_t all;

    sigfillset(&all);
    /* These tell of an access of the thread itself, and could not wait. */
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGSEGV);
    pthread_sigmask(SIG_BLOCK, &all, &guard->signals);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &guard->cancel);
}

void guard_leave(struct guard *guard)
{
    pthread_setcancelstate(guard->cancel, NULL);
    pthread_sigmask(SIG_SETMASK, &guard->signals, NULL);
}
