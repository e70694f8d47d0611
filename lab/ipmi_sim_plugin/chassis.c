/*
 * chassis.c - hands the IPMI chassis commands of ipmi_sim to the lab's machine supervisor.
 *
 * ipmi_sim's own ways to control a chassis fork a program for each question and pass on no more than the boot device
 * selector.  This module forwards the request's bytes as they came, so that all five boot flag bytes arrive, and
 * gives back the bytes of the answer.  It holds no state: the supervisor knows what is on and what boots.
 *
 * Wire, over a Unix stream socket whose path is the module's option: the request is one length byte, the command and
 * its data; the answer is one length byte, the completion code and its data.
 *
 * Rules: no fork, no thread; every exchange has a deadline, after which the answer is "node busy" (C0h).
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <OpenIPMI/ipmi_msgbits.h>
#include <OpenIPMI/mcserv.h>

#define DEADLINE_SECONDS 5
#define MAX_DATA 64

/* Completion codes (IPMI 2.0, table 5-2). */
#define NODE_BUSY 0xc0
#define LENGTH_INVALID 0xc7

/* Chassis commands that the machine answers (IPMI 2.0, table 28-1). */
static const unsigned char commands[] = {
    0x00, /* Get Chassis Capabilities */
    0x01, /* Get Chassis Status */
    0x02, /* Chassis Control */
    0x04, /* Chassis Identify */
    0x07, /* Get System Restart Cause */
    0x08, /* Set System Boot Options */
    0x09, /* Get System Boot Options */
};

static char socket_path[sizeof(((struct sockaddr_un *)0)->sun_path)];
static int connection = -1;

static void
hang_up(void)
{
    if (connection >= 0)
	close(connection);
    connection = -1;
}

static int
dial(void)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct timeval deadline = { .tv_sec = DEADLINE_SECONDS };

    if (connection >= 0)
	return 0;
    connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection < 0)
	return errno;
    memcpy(address.sun_path, socket_path, sizeof(socket_path));
    if (setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof(deadline)) ||
	setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &deadline, sizeof(deadline)) ||
	connect(connection, (struct sockaddr *)&address, sizeof(address))) {
	int error = errno;

	hang_up();
	return error;
    }
    return 0;
}

static int
read_all(unsigned char *into, size_t length)
{
    while (length > 0) {
	ssize_t got = recv(connection, into, length, 0);

	if (got < 0 && errno == EINTR)
	    continue;
	if (got <= 0)
	    return got ? errno : ECONNRESET;
	into += got;
	length -= (size_t)got;
    }
    return 0;
}

/* One exchange. The answer's length is in *length. */
static int
ask(const msg_t *request, unsigned char *answer, unsigned int *length)
{
    unsigned char frame[2 + MAX_DATA], size;
    int error = dial();

    if (error)
	return error;
    frame[0] = (unsigned char)(1 + request->len);
    frame[1] = request->cmd;
    memcpy(frame + 2, request->data, request->len);
    if (send(connection, frame, 2 + request->len, MSG_NOSIGNAL) != (ssize_t)(2 + request->len))
	return errno;
    error = read_all(&size, 1);
    if (!error && (size == 0 || size > MAX_DATA))
	error = EPROTO;
    if (!error)
	error = read_all(answer, size);
    if (!error)
	*length = size;
    return error;
}

static void
forward(lmc_data_t *mc, msg_t *msg, unsigned char *rdata, unsigned int *rdata_len, void *cb_data)
{
    sys_data_t *sys = cb_data;
    int error;

    (void)mc;
    if (msg->len > MAX_DATA) {
	rdata[0] = LENGTH_INVALID;
	*rdata_len = 1;
	return;
    }
    error = ask(msg, rdata, rdata_len);
    if (error) {
	/* The supervisor may have been restarted; a second try dials anew. */
	hang_up();
	error = ask(msg, rdata, rdata_len);
    }
    if (error) {
	hang_up();
	sys->log(sys, OS_ERROR, msg, "chassis: %s: %s", socket_path, strerror(error));
	rdata[0] = NODE_BUSY;
	*rdata_len = 1;
    }
}

int
ipmi_sim_module_print_version(sys_data_t *sys, char *options)
{
    (void)sys;
    (void)options;
    puts("metald lab chassis module");
    return 0;
}

int
ipmi_sim_module_init(sys_data_t *sys, const char *options)
{
    size_t i;

    if (!options || strlen(options) >= sizeof(socket_path)) {
	sys->log(sys, SETUP_ERROR, NULL, "chassis: the option must be the path of the supervisor's socket");
	return EINVAL;
    }
    strcpy(socket_path, options);
    for (i = 0; i < sizeof(commands); i++) {
	int error = ipmi_emu_register_cmd_handler(IPMI_CHASSIS_NETFN, commands[i], forward, sys);

	if (error) {
	    sys->log(sys, SETUP_ERROR, NULL, "chassis: command %2.2xh: %s", commands[i], strerror(error));
	    return error;
	}
    }
    return 0;
}
