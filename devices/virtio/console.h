/* virtio-console: its row for devices/table.c, and its description for tests. */
#ifndef DEVICES_VIRTIO_CONSOLE_H
#define DEVICES_VIRTIO_CONSOLE_H

#include "devices/virtio/virtio.h"

extern const struct device_type virtio_console_row;
extern const struct virtio_type virtio_console_type;

#endif
