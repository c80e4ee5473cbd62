/* SPDX-License-Identifier: Apache-2.0 */

/*
 * DOC: mcmeshctl
 *
 * Parse → request → output, one thread. grammar.c holds every command as a row
 * of a const table: the method, the request's fields that its options set, the
 * response's list. Everything else is generic over protobuf-c descriptors, so a
 * new field of an answer is printed without a change here.
 *
 * Lists are asked for page by page and joined before they are printed. Signals
 * are blocked from the start and read by a thread of their own, which wakes the
 * completion queue: see request.c.
 */
#include <pthread.h>
#include <signal.h>

#include "ctl/ctl.h"

int main(int argc, char **argv)
{
	struct ctl_options options;
	sigset_t set;
	int r;

	/* A reader that went away is an error of write(), not the end. */
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);

	r = ctl_parse(argc, argv, &options);
	if (r == 0 && options.help)
		ctl_help(&options);
	else if (r == 0)
		r = ctl_run(&options);
	ctl_options_deinit(&options);
	return r;
}
