"""A notice as an e-mail, and handing it to the server that sends it."""

from __future__ import annotations

import ssl
from email.message import EmailMessage
from email.utils import format_datetime

import aiosmtplib

from gateway.pages import environment
from gateway.pages.invoice import View, page
from gateway.settings import Smtp
from metering.ledger.notices import Kept
from metering.notices import Event

MAX_ATTACHED_BYTES = 4 << 20  # mail servers take 10 MB and more; a page has about 1 kB a line

_TEXTS = {event.value: environment.get_template(f"mail/{event.value}.txt") for event in Event}


# What a server says before it has heard of a message: of itself or of who sends, and other settings may help.
_OF_NO_MESSAGE = (
    aiosmtplib.SMTPConnectResponseError,
    aiosmtplib.SMTPHeloError,
    aiosmtplib.SMTPAuthenticationError,
)


class RejectedError(Exception):
    """The server will never take this message."""


def message_of(notice: Kept, smtp: Smtp, recipient: str, invoice: View | None = None) -> EmailMessage:
    """Write the e-mail of a notice; the first line of its text is the subject.

    Its Message-ID comes from the notice, so a mailbox that gets it twice can tell. An `invoice` is
    attached as the page that can be printed, unless that is too large to be sent.
    """
    html = None if invoice is None else page(invoice)
    attached = html is not None and len(html.encode()) <= MAX_ATTACHED_BYTES
    written = _TEXTS[notice.event].render(**notice.data, view=invoice, attached=attached)
    subject, _, text = written.partition("\n")
    message = EmailMessage()
    message["From"] = smtp.sender
    message["To"] = recipient
    message["Subject"] = " ".join(subject.split())
    message["Date"] = format_datetime(notice.created_at)
    message["Message-ID"] = f"<{notice.id}@{smtp.sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text.strip("\n") + "\n")
    if html is not None and attached:
        message.add_attachment(html, subtype="html", filename=f"{notice.data['number']}.html")
    return message


class Mailer:
    """Hands messages to one server."""

    def __init__(self, smtp: Smtp) -> None:
        self.smtp = smtp
        self._tls = ssl.create_default_context(cafile=smtp.ca_file) if smtp.security != "none" else None

    async def send(self, notice: Kept, recipient: str, invoice: View | None = None) -> None:
        """Send one, with the page of an invoice.

        Raises RejectedError when trying again is of no use, other errors when it may be.
        """
        smtp = self.smtp
        try:
            await aiosmtplib.send(
                message_of(notice, smtp, recipient, invoice),
                hostname=smtp.host,
                port=smtp.port,
                username=smtp.username,
                password=smtp.password,
                timeout=smtp.timeout_s,
                use_tls=smtp.security == "tls",
                start_tls=smtp.security == "starttls",
                tls_context=self._tls,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            codes = [refused.code for refused in error.recipients]
            if all(code >= 500 for code in codes):
                raise RejectedError(f"SMTP {codes[0]}") from error
            raise
        except aiosmtplib.SMTPResponseException as error:
            if error.code >= 500 and not isinstance(error, _OF_NO_MESSAGE):
                raise RejectedError(f"SMTP {error.code}") from error
            raise
