"""`/twilio`: calls, by Twilio Media Streams."""
