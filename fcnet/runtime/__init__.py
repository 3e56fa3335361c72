"""What every room stands on: errors, files, seeds, processes, memory and hardware."""
