/*
 * The rows of the virtio devices, for devices/table.c; their types, for tests that drive a device
 * without a front.
 */
#ifndef DEVICES_VIRTIO_TYPES_H
#define DEVICES_VIRTIO_TYPES_H

#include "vmm/device.h"

extern const struct device_type virtio_blk_row, virtio_net_row, virtio_rng_row, virtio_console_row;

struct virtio_type;
extern const struct virtio_type virtio_blk_type, virtio_net_type, virtio_rng_type;

#endif
