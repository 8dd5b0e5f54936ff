"""Networks of the U-Net family that smp lacks, and the table of all networks."""
