"""The realtime protocol, sans-IO: sessions, the hub that finds them, conflation, recovery. Frames in, effects out."""
